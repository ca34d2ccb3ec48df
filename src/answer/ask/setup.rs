//! What the flags come to: the engine and how it is run, the adapter's file, and all of the request but its messages.
//!
//! The configuration is read only where something is looked up in it.

use std::path::{Path, PathBuf};

use super::options::AskOptions;
use crate::answer::adapters::candidates;
use crate::answer::engine::EngineOptions;
use crate::answer::error::AnswerError;
use crate::config::Config;
use crate::infer::PrefixCache;
use crate::numbers::{DeviceChoice, KvCacheDtype};
use crate::spool::wire::{ChatOptions, Request, Sampling};
use crate::store::adapter_files::{PEFT_WEIGHTS_FILE, PROCESSED_WEIGHTS_FILE};

/// As many as `run` computes in one step.
const MAX_STEP_ROWS: usize = 128;

/// What is opened, and what is asked of it.
pub struct Setup {
    pub engine: EngineOptions,
    /// Name and file.
    pub adapter: Option<(String, PathBuf)>,
    /// Without messages.
    pub request: Request,
}

impl Setup {
    /// # Errors
    /// [`AnswerError`] when no engine is named, or no such adapter is there.
    pub fn new(options: &AskOptions) -> Result<Self, AnswerError> {
        let by_name = options.lora.as_ref().filter(|lora| !is_path(lora));
        let needs_config = options.config.is_some() || options.engine_dir.is_none() || by_name.is_some();
        let config = if needs_config { Config::find(options.config.as_deref())? } else { None };
        let directory = config.as_ref().and_then(|config| config.adapters.as_deref());
        let adapter = options.lora.as_ref().map(|lora| find_adapter(lora, directory)).transpose()?;
        let name = adapter.as_ref().map(|(name, _)| name.clone());
        Ok(Self { engine: engine(options, config.as_ref())?, adapter, request: request(options, name) })
    }
}

fn engine(options: &AskOptions, config: Option<&Config>) -> Result<EngineOptions, AnswerError> {
    let mut engine = match (&options.engine_dir, config) {
        (Some(directory), _) => EngineOptions {
            directory: directory.clone(),
            n_threads: 0,
            max_step_rows: MAX_STEP_ROWS,
            max_memory: None,
            prefix_cache: PrefixCache::DEFAULT,
            kv_cache_dtype: KvCacheDtype::Auto,
            device: DeviceChoice::Auto,
            served_names: Vec::new(),
        },
        (None, Some(config)) => {
            tracing::info!("the engine is {}, as the configuration says", config.engine.display());
            EngineOptions::from(config)
        }
        (None, None) => return Err(AnswerError::NoEngine),
    };
    engine.n_threads = options.threads.unwrap_or(engine.n_threads);
    engine.device = options.device.unwrap_or(engine.device);
    Ok(engine)
}

fn request(options: &AskOptions, lora_name: Option<String>) -> Request {
    let (given, default) = (&options.sampling, Sampling::default());
    Request {
        sampling: Sampling {
            max_generate_length: given.max_generate_length.unwrap_or(default.max_generate_length),
            temperature: given.temperature.unwrap_or(default.temperature),
            top_p: given.top_p.unwrap_or(default.top_p),
            top_k: given.top_k.unwrap_or(default.top_k),
            seed: given.seed,
            ..default
        },
        chat: ChatOptions { enable_thinking: options.enable_thinking, ..ChatOptions::default() },
        stop: options.stop.clone(),
        lora_name,
        lora_scale: options.lora_scale,
        ..Request::default()
    }
}

/// Whether it cannot be a name.
fn is_path(lora: &Path) -> bool {
    lora.components().count() != 1
        || lora.as_os_str().as_encoded_bytes().contains(&b'/')
        || lora.extension().is_some_and(|extension| extension == "safetensors")
}

/// Its name and file. A name is looked up in the adapters directory first, then it is a path like any other.
fn find_adapter(lora: &Path, directory: Option<&Path>) -> Result<(String, PathBuf), AnswerError> {
    let name = lora.to_string_lossy().into_owned();
    let named = directory.filter(|_| !is_path(lora)).map(|directory| candidates(directory, &name));
    if let Some(file) = named.into_iter().flatten().find(|file| file.exists()) {
        return Ok((name, file));
    }
    let missing =
        |found: String, advice: String| AnswerError::NoAdapter { name: name.clone(), found, advice };
    if !lora.exists() {
        let found = match directory.filter(|_| !is_path(lora)) {
            Some(directory) => format!("neither in {} nor a path", directory.display()),
            None => "not there".to_owned(),
        };
        let advice =
            "`jetspool list` shows which adapters there are; a path leads to what process-lora wrote";
        return Err(missing(found, advice.to_owned()));
    }
    if !lora.is_dir() {
        return Ok((name, lora.to_owned()));
    }
    let file = lora.join(PROCESSED_WEIGHTS_FILE);
    match file.exists() {
        true => Ok((name, file)),
        false if lora.join(PEFT_WEIGHTS_FILE).exists() => {
            let advice = format!("first jetspool process-lora --input_dir {name} --output_dir DIR");
            Err(missing("as PEFT saves it".to_owned(), advice))
        }
        false => {
            let advice =
                format!("it has no {PROCESSED_WEIGHTS_FILE}; give the directory that process-lora wrote");
            Err(missing("another directory".to_owned(), advice))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_plain_word() {
        for (lora, wanted) in [
            ("french", false),
            ("médical v1.2", false),
            ("./french", true),
            ("french/", true),
            ("/var/lib/french", true),
            ("..", false),
            ("french.safetensors", true),
        ] {
            assert_eq!(is_path(Path::new(lora)), wanted, "{lora}");
        }
    }

    #[test]
    fn adapters_are_found_by_name_and_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        for file in ["french/processed_adapter_model.safetensors", "raw/adapter_model.safetensors", "other/x"]
        {
            std::fs::create_dir_all(directory.join(file).parent().unwrap()).unwrap();
            std::fs::write(directory.join(file), "").unwrap();
        }
        std::fs::write(directory.join("german.safetensors"), "").unwrap();
        let processed = directory.join("french/processed_adapter_model.safetensors");
        let file_of = |lora: &Path| find_adapter(lora, Some(directory)).unwrap().1;
        assert_eq!(file_of(Path::new("french")), processed);
        assert_eq!(file_of(&directory.join("french")), processed);
        assert_eq!(file_of(Path::new("german")), directory.join("german.safetensors"));
        for (lora, said) in
            [("raw", "process-lora --input_dir"), ("other", "it has no processed"), ("x/y", "not there")]
        {
            let error = find_adapter(&directory.join(lora), Some(directory)).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.exit_code(), 66);
        }
        let error = find_adapter(Path::new("frnch"), Some(directory)).unwrap_err();
        assert!(error.to_string().contains("neither in /"), "{error}");
    }
}
