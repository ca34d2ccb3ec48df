//! One request file without a spool: the workflow's llm_inference.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::adapters::AdapterPlaces;
use super::engine::{EngineOptions, TextEngine};
use super::error::AnswerError;
use super::executor::{Executor, Ticket};
use super::profile::Profile;
use super::ready::Ready;
use super::refused::refused;
use crate::infer::PrefixCache;
use crate::numbers::{DeviceChoice, KvCacheDtype};
use crate::spool::is_of_lines;
use crate::spool::wire::{
    Answer, AnswerFile, BadRequest, Fault, FaultCode, Form, Request, RequestFile, Stamp,
};
use crate::store::{AllowedRoots, AtomicFile, StoreError, read_small};

/// The flags of `run`.
#[derive(Debug, Clone)]
pub struct RunOptions {
    pub engine_dir: PathBuf,
    pub input_file: PathBuf,
    pub output_file: PathBuf,
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
    let answers = answer_all(&mut executor, &file, options, (&mut profile, &is_interrupted));
    // The profile comes first, as in the original: whoever waits for the answers finds both. But what was
    // computed is written whatever else fails.
    let profile_written = write_profile(options, &profile);
    write_answers(options, &file, &answers)?;
    profile_written?;
    if options.dump_output {
        match print_answers(&answers) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                return Err(AnswerError::System { action: "print the answers", source: error });
            }
            _ => {}
        }
    }
    let n_failed = answers.iter().filter(|answer| answer.error.is_some()).count();
    if is_interrupted.load(Ordering::Relaxed) {
        let n_cancelled = answers.iter().filter(|answer| is_cancelled(answer)).count();
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

fn is_cancelled(answer: &Answer) -> bool {
    answer.error.as_ref().is_some_and(|fault| fault.code == FaultCode::Cancelled)
}

/// No file is written over another one of the same run.
fn check_paths(options: &RunOptions) -> Result<(), AnswerError> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (input, output) = (real(&options.input_file), real(&options.output_file));
    let profile = options.profile_output_file.as_deref().map(real);
    let (flag, wanted, value) = if output == input {
        ("outputFile", "another file than --inputFile", output)
    } else if profile.as_ref() == Some(&output) {
        ("profileOutputFile", "another file than --outputFile", output)
    } else if profile.as_ref() == Some(&input) {
        ("profileOutputFile", "another file than --inputFile", input)
    } else {
        return Ok(());
    };
    Err(AnswerError::Flag { flag, value: value.display().to_string(), wanted })
}

fn read_requests(options: &RunOptions) -> Result<RequestFile, AnswerError> {
    let path = &options.input_file;
    let rejected = |fault| AnswerError::Rejected { path: path.clone(), fault };
    let mut file = if is_of_lines(path.as_os_str()) {
        let unreadable =
            |source| AnswerError::from(StoreError::Io { path: path.clone(), action: "read", source });
        let file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let created = unix_time().unsigned_abs();
        let stamp = Stamp { name: format!("{created:x}"), created };
        let (parsed, _) = RequestFile::read(file, size, Form::Lines(stamp)).map_err(unreadable)?;
        parsed.map_err(rejected)?
    } else {
        RequestFile::parse(read_small(path)?).map_err(rejected)?
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
    file: &Arc<RequestFile>,
    options: &RunOptions,
    (profile, is_interrupted): (&mut Profile, &AtomicBool),
) -> Vec<Answer> {
    let n_requests = file.n_requests();
    let mut answers: Vec<Option<Answer>> = (0..n_requests).map(|_| None).collect();
    let progress = progress_bar(n_requests);
    let unix_time = unix_time();
    let mut next = 0;
    while next < n_requests || executor.n_active() > 0 {
        while next < n_requests && executor.has_room() {
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
                answers[next] = Some(answer);
                progress.inc(1);
            }
            next += 1;
        }
        let start = Instant::now();
        let finished = executor.step();
        profile.add(executor.last_step(), start.elapsed());
        progress.inc(finished.len() as u64);
        for (ticket, answer) in finished {
            answers[ticket.request_idx] = Some(answer);
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
                *answer = Some(refused(request_idx, file.batch_size, request, fault));
            }
            break;
        }
        let (n_read, n_generated, _) = profile.totals();
        progress.set_message(format!("{n_read} tokens read, {n_generated} generated"));
    }
    progress.finish_and_clear();
    answers.into_iter().flatten().collect()
}

fn unix_time() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn progress_bar(n_requests: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} requests, {msg}, {elapsed} (eta {eta})")
        .expect("the template is a constant");
    let progress = ProgressBar::new(n_requests as u64).with_style(style);
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}

fn print_answers(answers: &[Answer]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for answer in answers {
        let names: Vec<&str> = answer.lora_names().collect();
        let adapter = if names.is_empty() { "no adapter".to_owned() } else { names.join(" + ") };
        writeln!(out, "[{} {adapter}] {}", answer.request_idx, answer.output_text)?;
    }
    Ok(())
}

fn write_answers(options: &RunOptions, file: &RequestFile, answers: &[Answer]) -> Result<(), AnswerError> {
    let path = &options.output_file;
    let failed = |source| StoreError::Io { path: path.clone(), action: "write", source };
    let output = AtomicFile::create(path)?;
    if matches!(file.form(), Form::Lines(_)) {
        let mut out = BufWriter::new(output);
        for answer in answers {
            answer.write_json(&mut out).and_then(|()| out.write_all(b"\n")).map_err(failed)?;
        }
        let output = out.into_inner().map_err(|error| failed(error.into_error()))?;
        return Ok(output.commit()?);
    }
    let input_file = options.input_file.to_string_lossy();
    let mut writer = AnswerFile::begin(BufWriter::new(output), &input_file).map_err(failed)?;
    for answer in answers {
        writer.entry(|out| answer.write_json(out)).map_err(failed)?;
    }
    let writer = writer.finish(&file.warnings).map_err(failed)?;
    let output = writer.into_inner().map_err(|error| failed(error.into_error()))?;
    Ok(output.commit()?)
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
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss() as u64 * 1024)
}
