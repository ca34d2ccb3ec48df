//! One request file without a spool: the workflow's llm_inference.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use signal_hook::consts::{SIGINT, SIGTERM};

use super::adapters::AdapterPlaces;
use super::engine::{EngineOptions, TextEngine};
use super::error::AnswerError;
use super::executor::Executor;
use super::outcome::{Outcome, print_answers, write_answers};
use super::profile::Profile;
use super::prompter::unix_time;
use super::ready::Ready;
use super::refused::refused;
use super::resume::{Kept, Wanted, kept_answers};
use super::ticket::Ticket;
use crate::infer::PrefixCache;
use crate::numbers::{DeviceChoice, KvCacheDtype};
use crate::progress::{Bar, Progress};
use crate::spool::form;
use crate::spool::wire::{BadRequest, Fault, FaultCode, Request, RequestFile, Stamp};
use crate::store::{AllowedRoots, AtomicFile, Expected, StoreError, explain, read_small};

/// The flags of `run`.
#[derive(Debug, Clone)]
pub struct RunOptions {
    pub engine_dir: PathBuf,
    pub input_file: PathBuf,
    pub output_file: PathBuf,
    /// Keeps the whole answers of an output file that an interrupted run wrote.
    pub resume: bool,
    /// Replaces the file's `batch_size`.
    pub batch_size: Option<usize>,
    /// Replaces the file's `max_generate_length`.
    pub max_generate_length: Option<usize>,
    /// Replaces the file's `num_logprobs`.
    pub num_logprobs: Option<usize>,
    /// Steps computed before the clock starts.
    pub warmup: usize,
    /// Prints every answer.
    pub dump_output: bool,
    /// Prints what the run cost.
    pub dump_profile: bool,
    pub profile_output_file: Option<PathBuf>,
    /// 0 means one per processor.
    pub threads: usize,
    pub max_step_rows: usize,
    /// Blocks of keys and values that are kept for requests that begin with the same tokens; 0 shares none.
    pub max_cached_blocks: Option<usize>,
    pub kv_cache_dtype: KvCacheDtype,
    pub device: DeviceChoice,
    /// Adapter paths must lie in one of these; none means anywhere.
    pub allowed_roots: Vec<PathBuf>,
    /// Names of the model in a batch file, beside that of its directory.
    pub served_model_names: Vec<String>,
    /// Adapters beside those of the file's `available_lora_weights`, by name.
    pub lora_modules: Vec<(String, PathBuf)>,
}

/// Answers all requests of a file and writes the answers at once.
///
/// # Errors
/// [`AnswerError`]; [`AnswerError::SomeFailed`] when the file was written but some answers are faults.
pub fn run(options: &RunOptions) -> Result<(), AnswerError> {
    check_paths(options)?;
    let file = Arc::new(read_requests(options)?);
    let kept = read_kept(&file, options)?;
    let engine_options = EngineOptions {
        directory: options.engine_dir.clone(),
        n_threads: options.threads,
        max_step_rows: options.max_step_rows,
        max_memory: None,
        prefix_cache: options.max_cached_blocks.map_or(PrefixCache::DEFAULT, PrefixCache::Blocks),
        kv_cache_dtype: options.kv_cache_dtype,
        device: options.device,
        served_names: options.served_model_names.clone(),
    };
    let mut engine = TextEngine::open(&engine_options, 0)?;
    for _ in 0..options.warmup {
        engine.self_test()?;
    }
    let roots = match options.allowed_roots.as_slice() {
        [] => vec![PathBuf::from("/")],
        roots => roots.to_vec(),
    };
    let places = AdapterPlaces { roots: AllowedRoots::new(roots), directory: None };
    engine.open_prompter(&options.engine_dir)?;
    let mut executor = Executor::new(engine, places);
    let mut profile = Profile::default();
    let is_interrupted = interruption().map_err(AnswerError::system("watch signals"))?;
    let answers = answer_all(&mut executor, (&file, kept), options, (&mut profile, &is_interrupted));
    // The profile comes first, as in the original: whoever waits for the answers finds both. But what was
    // computed is written whatever else fails.
    let profile_written = write_profile(options, &profile);
    let input_file = options.input_file.to_string_lossy();
    write_answers(&options.output_file, &input_file, (&file, &answers))?;
    profile_written?;
    if options.dump_output {
        match print_answers(&answers) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                return Err(AnswerError::System { action: "print the answers", source: error });
            }
            _ => {}
        }
    }
    let n_failed = answers.iter().filter(|answer| answer.has_failed()).count();
    if is_interrupted.load(Ordering::Relaxed) {
        let n_cancelled = answers.iter().filter(|answer| answer.is_cancelled()).count();
        let (n_answered, n_requests) = (answers.len() - n_cancelled, answers.len());
        return Err(AnswerError::Interrupted { n_answered, n_requests, output: options.output_file.clone() });
    }
    match n_failed {
        0 => Ok(()),
        _ => Err(AnswerError::SomeFailed {
            n_failed,
            n_requests: answers.len(),
            output: options.output_file.clone(),
        }),
    }
}

/// Becomes true with Ctrl-C or SIGTERM; what is finished is written then. Another one ends the program at once.
fn interruption() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
        signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// For each request the answer that is there already, if the run goes on with an earlier one's.
fn read_kept(file: &RequestFile, options: &RunOptions) -> Result<Vec<Option<Kept>>, AnswerError> {
    let n_requests = file.n_requests();
    if !options.resume {
        return Ok((0..n_requests).map(|_| None).collect());
    }
    let request = |index: usize| read_request(file, index, options);
    let wanted = Wanted {
        n_requests,
        batch_size: file.batch_size,
        is_of_lines: file.form().is_of_lines(),
        request: &request,
    };
    kept_answers(&options.output_file, &wanted)
}

/// No file is written over another one of the same run.
fn check_paths(options: &RunOptions) -> Result<(), AnswerError> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (input, output) = (real(&options.input_file), real(&options.output_file));
    let profile = options.profile_output_file.as_deref().map(real);
    let (flag, wanted, value) = if output == input {
        ("outputFile", "a file other than --inputFile", output)
    } else if profile.as_ref() == Some(&output) {
        ("profileOutputFile", "a file other than --outputFile", output)
    } else if profile.as_ref() == Some(&input) {
        ("profileOutputFile", "a file other than --inputFile", input)
    } else {
        return Ok(());
    };
    Err(AnswerError::Flag { flag, value: value.display().to_string(), wanted })
}

fn read_requests(options: &RunOptions) -> Result<RequestFile, AnswerError> {
    let path = &options.input_file;
    let rejected = |fault| AnswerError::Rejected { path: path.clone(), fault };
    let explained = |error| explain(path, Expected::Requests, error);
    let created = unix_time().unsigned_abs();
    let form = form(path.as_os_str(), || Stamp { name: format!("{created:x}"), created });
    let mut file = if form.is_of_lines() {
        let unreadable = |source| AnswerError::from(explained(StoreError::io(path, "read")(source)));
        let file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let (parsed, _) = RequestFile::read(file, size, form).map_err(unreadable)?;
        parsed.map_err(rejected)?
    } else {
        RequestFile::parse(read_small(path).map_err(explained)?).map_err(rejected)?
    };
    file.adapters.extend(options.lora_modules.iter().cloned());
    if let Some(batch_size) = options.batch_size {
        file.batch_size = batch_size;
    }
    for warning in &file.warnings {
        tracing::warn!("{}: {warning}", path.display());
    }
    Ok(file)
}

/// The request with what the flags say instead.
fn read_request(file: &RequestFile, index: usize, options: &RunOptions) -> Result<Request, BadRequest> {
    let mut request = file.request(index)?;
    let sampling = &mut request.sampling;
    sampling.max_generate_length = options.max_generate_length.unwrap_or(sampling.max_generate_length);
    sampling.num_logprobs = options.num_logprobs.unwrap_or(sampling.num_logprobs);
    Ok(request)
}

fn answer_all(
    executor: &mut Executor,
    (file, kept): (&Arc<RequestFile>, Vec<Option<Kept>>),
    options: &RunOptions,
    (profile, is_interrupted): (&mut Profile, &AtomicBool),
) -> Vec<Outcome> {
    let n_requests = file.n_requests();
    let mut answers: Vec<Option<Outcome>> = kept.into_iter().map(|kept| kept.map(Outcome::Kept)).collect();
    let progress = Bar::of(Progress::Bar, n_requests as u64, "requests");
    progress.add(answers.iter().flatten().count() as u64);
    let unix_time = unix_time();
    let mut next = 0;
    while next < n_requests || executor.n_active() > 0 {
        while next < n_requests && executor.has_room() {
            if answers[next].is_some() {
                next += 1;
                continue;
            }
            let ticket = Ticket { job: 0, request_idx: next };
            let request = read_request(file, next, options);
            let ready = Ready::new(request, (file, next), unix_time, executor.engine().guides(), |prompt| {
                executor.engine().prepare(prompt)
            });
            let answer = match ready {
                Ready::Run(runnable) => executor.add(ticket, *runnable),
                Ready::Answered(answer) => Some(*answer),
            };
            if let Some(answer) = answer {
                answers[next] = Some(Outcome::Computed(Box::new(answer)));
                progress.add(1);
            }
            next += 1;
        }
        let start = Instant::now();
        let finished = executor.step();
        profile.add(executor.last_step(), start.elapsed());
        progress.add(finished.len() as u64);
        for (ticket, answer) in finished {
            answers[ticket.request_idx] = Some(Outcome::Computed(Box::new(answer)));
        }
        let interruption = || {
            let why = "the run was interrupted before the answer was whole";
            is_interrupted.load(Ordering::Relaxed).then(|| Fault::new(FaultCode::Cancelled, why))
        };
        let damage = executor.damage().map(|damage| Fault::new(FaultCode::Internal, damage.to_string()));
        if let Some(fault) = damage.or_else(interruption) {
            // What was finished before is kept.
            for (request_idx, answer) in answers.iter_mut().enumerate().filter(|(_, answer)| answer.is_none())
            {
                let fault = fault.clone();
                let request = read_request(file, request_idx, options);
                let refused = refused(request_idx, file.batch_size, request, fault);
                *answer = Some(Outcome::Computed(Box::new(refused)));
            }
            break;
        }
        let (n_read, n_generated, _) = profile.totals();
        progress.say(format!("{n_read} tokens read, {n_generated} generated"));
    }
    answers.into_iter().flatten().collect()
}

fn write_profile(options: &RunOptions, profile: &Profile) -> Result<(), AnswerError> {
    if options.dump_profile {
        let (n_read, n_generated, time) = profile.totals();
        let seconds = time.as_secs_f64().max(1e-9);
        tracing::info!(
            "{n_read} prompt tokens, {n_generated} generated after the first, {seconds:.2} s, {:.1} tokens/s",
            (n_read + n_generated) as f64 / seconds
        );
    }
    let Some(path) = &options.profile_output_file else { return Ok(()) };
    // As in the original, the times are recorded only when they are asked for.
    let empty = Profile::default();
    let recorded = if options.dump_profile { profile } else { &empty };
    let text = format!("{:#}\n", recorded.to_json(peak_memory_bytes()));
    Ok(AtomicFile::write(Path::new(path), text.as_bytes())?)
}

/// Peak resident size of this process.
fn peak_memory_bytes() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().unsigned_abs() * 1024)
}
