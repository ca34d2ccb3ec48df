//! An opened engine: the runner that computes, and the text around it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::budget::Need;
use super::error::AnswerError;
use super::limits::Sources;
use crate::backend::Cpu;
use crate::format::{Bytes, Limits, Precision};
use crate::infer::{Runner, RunnerOptions, Sampling, Submission};
use crate::kernels::Kernels;
use crate::model::{BLOCK_LEN, Decoder};
use crate::spool::wire::{ChatOptions, Fault, FaultCode, Message};
use crate::store::engine::{EngineGeneration, TOKENIZER_FILE, TOKENIZER_TABLE_FILE};
use crate::store::{self, Damage, FileMap, StoreError};
use crate::text::{
    ChatMessage, ChatTemplate, Prompt, RenderOptions, Rendered, SpecialTokens, TemplateSource, TextError,
    Tokenizer, template_source,
};

/// Everything that one engine directory gives.
pub struct TextEngine {
    pub runner: Runner<Cpu>,
    pub tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    limits: Limits,
    precision: Precision,
    stop_tokens: Arc<[u32]>,
    maps: Vec<Arc<FileMap>>,
    generation: EngineGeneration,
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
        let tokenizer =
            read_tokenizer(directory, engine.tokenizer_json.as_ref(), engine.tokenizer_table.as_ref())?;
        let source = read_source(directory, &engine)?;
        let stop_tokens = stop_tokens(&engine.config.eos_token_ids, &source, &tokenizer);
        let template = read_template(directory, &engine, source, tokenizer.special_tokens())?;
        let broken = |source| AnswerError::Engine { directory: directory.clone(), source };
        let cpu =
            Cpu::new(Kernels::detect(), options.n_threads).map_err(AnswerError::system("start threads"))?;
        let decoder = Decoder::new(cpu, &engine.config, &engine.tensors).map_err(broken)?;
        let mut runner_options = RunnerOptions::of_engine(&engine.config.limits, options.max_step_rows);
        let need = Need {
            weights: engine.tensors.as_bytes().len() as u64,
            workspace: decoder.workspace_bytes(runner_options.max_step_rows, runner_options.max_batch_size)
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
            tokenizer,
            template,
            limits: engine.config.limits,
            precision: engine.config.precision,
            stop_tokens,
            maps: engine.maps,
            generation: engine.generation,
        })
    }

    /// Which files it was opened from.
    pub fn generation(&self) -> &EngineGeneration {
        &self.generation
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

    /// The messages as the model reads them. `unix_time` is what a template may print as the date.
    ///
    /// # Errors
    /// A [`Fault`] with what the template says.
    pub fn render(
        &self,
        messages: &[Message],
        chat: &ChatOptions,
        unix_time: i64,
    ) -> Result<Rendered, Fault> {
        let messages: Vec<ChatMessage> =
            messages.iter().map(|message| ChatMessage::new(message.role.as_str(), message.text())).collect();
        let rendered = if chat.apply_chat_template {
            let no_template = || {
                Fault::new(
                    FaultCode::BadRequest,
                    "the engine has no chat template; set apply_chat_template to false",
                )
            };
            let options = RenderOptions {
                add_generation_prompt: chat.add_generation_prompt,
                enable_thinking: Some(chat.enable_thinking),
                unix_time,
            };
            self.template.as_ref().ok_or_else(no_template)?.render(&messages, &options)
        } else {
            ChatTemplate::plain(&messages)
        };
        rendered.map_err(text_fault)
    }

    /// The prompt's tokens.
    ///
    /// # Errors
    /// A [`Fault`] with what the tokenizer says.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, Fault> {
        self.tokenizer.encode(prompt).map_err(text_fault)
    }

    /// Computes one token, so that a broken engine fails at start and not in a job; also `--warmup`.
    ///
    /// # Errors
    /// [`AnswerError::SelfTest`] when no token comes out; [`AnswerError::Store`] when the files change meanwhile.
    pub fn self_test(&mut self) -> Result<(), AnswerError> {
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 1, seed: 0, logit_bias: Vec::new() };
        let submission = Submission {
            prompt: vec![0],
            lora: None,
            sampling,
            max_new_tokens: 1,
            stop_tokens: self.stop_tokens(),
            num_logprobs: 1,
        };
        let failed = |why: String| AnswerError::SelfTest { why };
        self.runner.add(submission).map_err(|error| failed(error.to_string()))?;
        let outputs = self.runner.step();
        if let Some(damage) = self.damage() {
            return Err(StoreError::from(damage).into());
        }
        match outputs.first().and_then(|output| output.logprobs.first()) {
            Some(best) if best.logprob.is_finite() => Ok(()),
            Some(_) => Err(failed("the logits are not finite numbers".into())),
            None => Err(failed("no token came out".into())),
        }
    }
}

fn text_fault(error: TextError) -> Fault {
    let code = match error {
        TextError::TooLong { .. } => FaultCode::PromptTooLong,
        _ => FaultCode::BadRequest,
    };
    Fault::new(code, error.to_string())
}

/// The compiled table where it is there and of this tokenizer.json, else the file itself, which costs time and memory.
fn read_tokenizer(
    directory: &Path,
    json: Option<&Bytes>,
    table: Option<&Bytes>,
) -> Result<Tokenizer, AnswerError> {
    let path = directory.join(TOKENIZER_FILE);
    let Some(json) = json else { return Err(AnswerError::NoTokenizer { path }) };
    let json = (**json).as_ref();
    if let Some(table) = table {
        let path = directory.join(TOKENIZER_TABLE_FILE).display().to_string();
        match Tokenizer::open(Arc::clone(table)) {
            Ok(tokenizer) if tokenizer.source().is(json) => return Ok(tokenizer),
            Ok(_) => tracing::warn!(
                "{path} is of another {TOKENIZER_FILE}, which is read instead; build the engine again"
            ),
            Err(error) => tracing::warn!("{path}: {error}; {TOKENIZER_FILE} is read instead"),
        }
    }
    Tokenizer::parse(json).map_err(|source| AnswerError::Text { path, source })
}

/// The checkpoint's Jinja and its named tokens.
fn read_source(directory: &Path, engine: &store::Engine) -> Result<TemplateSource, AnswerError> {
    let tokenizer_config = engine.tokenizer_config.as_ref().map(|bytes| (**bytes).as_ref());
    let path = directory.join("tokenizer_config.json");
    template_source(tokenizer_config, engine.chat_template.as_deref())
        .map_err(|source| AnswerError::Text { path, source })
}

/// The ids of the model's configuration, and the tokenizer's own end token.
fn stop_tokens(of_model: &[u32], source: &TemplateSource, tokenizer: &Tokenizer) -> Arc<[u32]> {
    let of_tokenizer = source.variables.token("eos_token").and_then(|token| tokenizer.token_id(token));
    let mut tokens = of_model.to_vec();
    tokens.extend(of_tokenizer.filter(|token| !of_model.contains(token)));
    tokens.into()
}

/// `processed_chat_template.json` where present, else the checkpoint's Jinja.
fn read_template(
    directory: &Path,
    engine: &store::Engine,
    source: TemplateSource,
    special: &SpecialTokens,
) -> Result<Option<ChatTemplate>, AnswerError> {
    let wrong = |name: &str| {
        let path = directory.join(name);
        |source| AnswerError::Text { path, source }
    };
    if let Some(bytes) = &engine.processed_chat_template {
        let template = ChatTemplate::from_processed((**bytes).as_ref(), special.clone())
            .map_err(wrong("processed_chat_template.json"))?;
        return Ok(Some(template));
    }
    let Some(jinja) = source.jinja else { return Ok(None) };
    let template = ChatTemplate::from_jinja(&jinja, source.variables, special.clone())
        .map_err(wrong("chat_template.jinja"))?;
    Ok(Some(template))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_used_where_it_belongs_to_the_file() {
        let name = "tests/data/references/tokenizers/qwen2/tokenizer.json";
        let json = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        let text = String::from_utf8(json.clone()).unwrap();
        let (a, b) = ("\"a\": 64", "\"b\": 65");
        assert!(text.contains(a) && text.contains(b));
        // Of the same length, and known by its ids.
        let swapped = text.replacen(a, "\"a\": 65", 1).replacen(b, "\"b\": 64", 1);
        let table = |json: &[u8]| Tokenizer::compile(json).unwrap().to_vec();
        let longer = format!("{swapped} ");
        let damaged = table(&json)[1..].to_vec();
        // A table of one file whose header names another: where its ids come out, it was used.
        let mut claimed = table(swapped.as_bytes());
        claimed[16..56].copy_from_slice(&table(&json)[16..56]);
        claimed[92..96].copy_from_slice(&table(&json)[92..96]);
        let sum = crc32fast::hash(&claimed[16..128]);
        claimed[12..16].copy_from_slice(&sum.to_le_bytes());
        struct Case {
            table: Option<Vec<u8>>,
            ids: [u32; 2],
        }
        let cases = [
            Case { table: None, ids: [64, 65] },
            Case { table: Some(table(&json)), ids: [64, 65] },
            Case { table: Some(claimed), ids: [65, 64] },
            Case { table: Some(table(swapped.as_bytes())), ids: [64, 65] },
            Case { table: Some(table(longer.as_bytes())), ids: [64, 65] },
            Case { table: Some(damaged), ids: [64, 65] },
        ];
        let json: Bytes = Arc::new(json);
        for (case_idx, Case { table, ids }) in cases.into_iter().enumerate() {
            let table = table.map(|table| Arc::new(table) as Bytes);
            let tokenizer = read_tokenizer(Path::new("engine"), Some(&json), table.as_ref()).unwrap();
            let found = ["a", "b"].map(|letter| tokenizer.token_id(letter).unwrap());
            assert_eq!(found, ids, "case {case_idx}");
        }
        assert!(matches!(
            read_tokenizer(Path::new("engine"), None, None),
            Err(AnswerError::NoTokenizer { .. })
        ));
    }
}
