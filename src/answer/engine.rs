//! An opened engine: the runner that computes, and the tokenizer that reads its answers. Prompts are prepared by
//! prompter.rs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::budget::Need;
use super::error::AnswerError;
use super::guides::Guides;
use super::limits::Sources;
use super::prompter::{Prepared, PromptRequest, Prompter};
use super::text_files::TextFiles;
use crate::device::{DeviceName, Opened};
use crate::format::{Bytes, Limits};
use crate::infer::{Finish, PrefixCache, Runner, RunnerOptions, Sampling, Sharing, Submission};
use crate::load::load_decoder;
use crate::model::BLOCK_LEN;
use crate::numbers::{DeviceChoice, KvCacheDtype, Precision};
use crate::spool::wire::{Answer, Fault, FaultCode};
use crate::store::engine::EngineGeneration;
use crate::store::{self, Damage, FileMap, StoreError};
use crate::text::Tokenizer;

/// Everything that one engine directory gives.
pub struct TextEngine {
    pub runner: Runner<Opened>,
    pub tokenizer: Arc<Tokenizer>,
    /// For requests that are prepared here; none where that happens in another process.
    prompter: Option<Arc<Prompter>>,
    limits: Limits,
    precision: Precision,
    stop_tokens: Arc<[u32]>,
    guides: Arc<Guides>,
    maps: Vec<Arc<FileMap>>,
    generation: EngineGeneration,
    directory: PathBuf,
    /// What batch files call it.
    served_names: Vec<String>,
    need: Need,
}

/// How an engine is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    pub directory: PathBuf,
    /// 0 means one per processor.
    pub n_threads: usize,
    pub max_step_rows: usize,
    /// Bytes that all of it may take; none leaves it to the machine.
    pub max_memory: Option<u64>,
    pub prefix_cache: PrefixCache,
    pub kv_cache_dtype: KvCacheDtype,
    pub device: DeviceChoice,
    /// Names of the model in batch files, beside that of its directory.
    pub served_names: Vec<String>,
}

/// The name of the directory, and those that the options give.
fn served_names(options: &EngineOptions) -> Vec<String> {
    // A link may be given, or a path that ends in `..`.
    let real = std::fs::canonicalize(&options.directory).unwrap_or_else(|_| options.directory.clone());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = [name(&options.directory), name(&real)].into_iter().flatten().collect();
    names.extend(options.served_names.iter().cloned());
    names.sort_unstable();
    names.dedup();
    names
}

/// What people are told of an engine.
#[derive(Clone)]
pub struct EngineFacts {
    pub precision: &'static str,
    pub max_batch_size: usize,
    pub max_input_len: usize,
    pub max_lora_rank: usize,
    /// `cpu` or `cuda`.
    pub device: &'static str,
    /// Instruction set of its kernels, or which GPU it is.
    pub kernels: String,
    pub n_threads: usize,
    pub guides: Arc<Guides>,
    directory: PathBuf,
    generation: EngineGeneration,
}

impl EngineFacts {
    /// Whether the files in its directory are still those that it was opened from.
    pub fn is_current(&self) -> bool {
        self.generation == EngineGeneration::of(&self.directory)
    }
}

impl TextEngine {
    /// Maps the engine, reads its text files and plans its memory. `promised` bytes of what the machine has are
    /// already somebody else's.
    ///
    /// # Errors
    /// [`AnswerError`] with the file that is wrong, or with the limit that is too low.
    pub fn open(options: &EngineOptions, promised: u64) -> Result<Self, AnswerError> {
        let directory = &options.directory;
        let engine = store::Engine::open(directory)?;
        let files = text_files(directory, &engine);
        let tokenizer = Arc::new(files.tokenizer()?);
        let stop_tokens = files.stop_tokens(&engine.config.eos_token_ids, &tokenizer)?;
        let decoder =
            load_decoder(&engine, directory, options.device, options.n_threads, options.kv_cache_dtype)?;
        let mut runner_options =
            RunnerOptions::of_engine(&engine.config.limits, options.max_step_rows, options.prefix_cache);
        let need = Need {
            weights: engine.tensors.as_bytes().len() as u64,
            workspace: decoder.workspace_bytes(runner_options.max_step_rows, runner_options.max_batch_size)
                as u64,
            answers: (runner_options.max_batch_size * runner_options.capacity * Answer::MAX_BYTES_PER_TOKEN)
                as u64,
            sequence: (runner_options.capacity.div_ceil(BLOCK_LEN) * decoder.block_bytes()) as u64,
            promised,
        };
        let budget = need
            .kv_budget(Sources::default().bounds(options.max_memory))
            .map_err(|source| AnswerError::Memory { directory: directory.clone(), source })?;
        runner_options.max_kv_bytes = usize::try_from(budget).unwrap_or(usize::MAX);
        let runner = Runner::new(decoder, runner_options)
            .map_err(AnswerError::system("reserve the key-value cache"))?;
        Ok(Self {
            runner,
            guides: Arc::new(Guides::new(
                Arc::clone(&tokenizer),
                engine.config.architecture.vocab_size,
                Arc::clone(&stop_tokens),
            )),
            tokenizer,
            prompter: None,
            limits: engine.config.limits,
            precision: engine.config.precision,
            stop_tokens,
            maps: engine.maps,
            generation: engine.generation,
            directory: directory.clone(),
            served_names: served_names(options),
            need,
        })
    }

    /// The same, and computes a token with it, so that a broken engine fails now and not in a job.
    ///
    /// # Errors
    /// As [`TextEngine::open`], and [`AnswerError::SelfTest`].
    pub fn open_tried(options: &EngineOptions, promised: u64) -> Result<Self, AnswerError> {
        let mut engine = Self::open(options, promised)?;
        engine.self_test()?;
        Ok(engine)
    }

    /// Compiles the template, so that prompts can be prepared here.
    ///
    /// # Errors
    /// [`AnswerError`] with the file that is wrong.
    pub fn open_prompter(&mut self, directory: &Path) -> Result<(), AnswerError> {
        let files = TextFiles::read(directory)?;
        let tokenizer = Arc::clone(&self.tokenizer);
        self.prompter = Some(Arc::new(Prompter::new(&files, tokenizer, self.limits.max_input_len)?));
        Ok(())
    }

    /// Whether messages become a prompt here without being told how.
    pub fn has_template(&self) -> bool {
        self.prompter.as_ref().is_some_and(|prompter| prompter.has_template())
    }

    /// Makes a prompt ready.
    ///
    /// # Errors
    /// A [`Fault`] with what the template or the tokenizer says.
    pub fn prepare(&self, request: &PromptRequest) -> Result<Prepared, Fault> {
        let no_prompter = || Fault::new(FaultCode::Internal, "prompts are not prepared here");
        self.prompter.as_ref().ok_or_else(no_prompter)?.prepare(request)
    }

    /// What batch files may call it.
    pub fn served_names(&self) -> &[String] {
        &self.served_names
    }

    /// What makes guides for its answers.
    pub fn guides(&self) -> &Arc<Guides> {
        &self.guides
    }

    pub fn facts(&self) -> EngineFacts {
        let DeviceName { device, kernels, n_threads } = self.runner.decoder().device().name();
        EngineFacts {
            precision: self.precision.name(),
            max_batch_size: self.limits.max_batch_size,
            max_input_len: self.limits.max_input_len,
            max_lora_rank: self.limits.max_lora_rank,
            device,
            kernels,
            n_threads,
            guides: Arc::clone(&self.guides),
            directory: self.directory.clone(),
            generation: self.generation.clone(),
        }
    }

    /// Which files it was opened from.
    pub fn generation(&self) -> &EngineGeneration {
        &self.generation
    }

    /// Counts what its threads compute, piece by piece.
    pub fn n_tasks(&self) -> Arc<AtomicU64> {
        self.runner.decoder().device().n_tasks()
    }

    /// What it takes of the machine's memory.
    pub fn need(&self) -> &Need {
        &self.need
    }

    /// What happened to the files that it reads, if their bytes may be others than when it was opened.
    pub fn damage(&self) -> Option<Damage> {
        self.maps.iter().find_map(|map| map.damage())
    }

    /// Gives the pages of its files back; the next step brings them in again.
    pub fn release(&self) {
        self.maps.iter().for_each(|map| map.release());
    }

    /// The same, and asks the system not to keep them in its cache.
    pub fn drop_cached(&self) {
        self.maps.iter().for_each(|map| map.drop_cached());
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the weights are stored as.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Tokens that end an answer.
    pub fn stop_tokens(&self) -> Arc<[u32]> {
        Arc::clone(&self.stop_tokens)
    }

    /// Computes one token, so that a broken engine fails at start and not in a job; also `--warmup`.
    ///
    /// # Errors
    /// [`AnswerError::SelfTest`] when no token comes out; [`AnswerError::Store`] when the files change meanwhile.
    pub fn self_test(&mut self) -> Result<(), AnswerError> {
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 1, seed: 0, logit_bias: Vec::new() };
        let submission = Submission {
            prompt: vec![0],
            adapters: Vec::new(),
            sampling,
            guide: None,
            max_new_tokens: 1,
            stop_tokens: self.stop_tokens(),
            num_logprobs: 0,
            priority: 0,
            sharing: Sharing::default(),
        };
        let failed = |why: String| AnswerError::SelfTest { why };
        self.runner.add(submission).map_err(|error| failed(error.to_string()))?;
        let outputs = self.runner.step();
        if let Some(damage) = self.damage() {
            return Err(StoreError::from(damage).into());
        }
        match outputs.first() {
            Some(output) if output.finish == Some(Finish::NotFinite) => {
                Err(failed("the logits are not finite numbers".into()))
            }
            Some(_) => Ok(()),
            None => Err(failed("no token came out".into())),
        }
    }
}

/// What was opened with the weights.
fn text_files(directory: &Path, engine: &store::Engine) -> TextFiles {
    let template = engine.chat_template.clone();
    TextFiles {
        directory: directory.to_owned(),
        tokenizer_json: engine.tokenizer_json.clone(),
        tokenizer_table: engine.tokenizer_table.clone(),
        tokenizer_config: engine.tokenizer_config.clone(),
        chat_template: template.map(|text| Arc::new(text.into_bytes()) as Bytes),
        processed_chat_template: engine.processed_chat_template.clone(),
        tool_template: engine.tool_template.clone(),
    }
}
