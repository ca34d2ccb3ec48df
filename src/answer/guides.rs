//! Guides of answers: what a request wants its answer to look like, as a parser that says which tokens may come next
//! (llguidance). The vocabulary is made into a tree with the first of them, and let go when nobody has one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::call_grammar::CallForm;
use super::gbnf::gbnf_to_lark;
use super::white_space::{WhiteSpace, begins_with_space};
use crate::infer::{Allowed, Guide};
use crate::spool::wire::{self, Fault, FaultCode};
use crate::text::Tokenizer;

/// Names of tokens that are no text, so that no text is taken for them.
const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
/// Compiled guides that are kept for other requests.
const MAX_COMPILED: usize = 16;
const THINKING: &str = "<think>";
const THOUGHT: &str = "</think>";

/// Makes guides for one engine.
pub struct Guides {
    tokenizer: Arc<Tokenizer>,
    /// Of the logits; larger than the tokenizer's where the model's table is filled up.
    vocab_size: usize,
    stop_tokens: Arc<[u32]>,
    vocabulary: Mutex<Weak<Vocabulary>>,
}

/// The tokens as guides need them.
struct Vocabulary {
    factory: ParserFactory,
    /// Tokens that begin with white space.
    spaces: SimpleVob,
    tokenizer: Arc<Tokenizer>,
    /// The guides that were compiled last, the latest first, as they are before any token.
    compiled: Mutex<VecDeque<(Wanted, Matcher)>>,
}

/// What a guide is compiled from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    guide: wire::Guide,
    /// Of a guide for calls.
    calls: Option<CallForm>,
}

impl Vocabulary {
    /// The requests of a file often have one guide: it is compiled once.
    fn matcher(&self, wanted: &Wanted) -> Result<Matcher, String> {
        let compiled = || self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, matcher)) = compiled().iter().find(|(known, _)| known == wanted) {
            return Ok(matcher.deep_clone());
        }
        let matcher = Matcher::new(self.factory.create_parser(grammar(wanted)?));
        if let Some(why) = matcher.get_error() {
            return Err(first_line(&why).to_owned());
        }
        let mut compiled = compiled();
        compiled.push_front((wanted.clone(), matcher.deep_clone()));
        compiled.truncate(MAX_COMPILED);
        Ok(matcher)
    }
}

impl Guides {
    pub fn new(tokenizer: Arc<Tokenizer>, vocab_size: usize, stop_tokens: Arc<[u32]>) -> Self {
        Self { tokenizer, vocab_size, stop_tokens, vocabulary: Mutex::default() }
    }

    /// The guide of an answer to this prompt. It takes some milliseconds, and bounded memory.
    ///
    /// # Errors
    /// A [`Fault`] with what cannot be kept.
    pub fn compile(
        &self,
        guide: &wire::Guide,
        prompt_text: &str,
        enable_thinking: bool,
    ) -> Result<Box<dyn Guide>, Fault> {
        let refused = |why: &dyn std::fmt::Display| Fault::new(FaultCode::Guide, format!("the guide: {why}"));
        let vocabulary = self.vocabulary().map_err(|why| refused(&why))?;
        let calls = matches!(guide, wire::Guide::Calls(_))
            .then(|| CallForm::find(prompt_text, &self.tokenizer))
            .transpose()
            .map_err(|why| refused(&why))?;
        let wanted = Wanted { guide: guide.clone(), calls };
        let matcher = vocabulary.matcher(&wanted).map_err(|why| refused(&why))?;
        let thought = self.tokenizer.token_id(THOUGHT).filter(|_| thinks(prompt_text, enable_thinking));
        let is_json = matches!(guide, wire::Guide::JsonObject | wire::Guide::JsonSchema(_));
        let white_space = is_json.then(WhiteSpace::default);
        let mask = SimpleVob::alloc(self.vocab_size);
        Ok(Box::new(Parsed {
            vocabulary,
            matcher,
            mask,
            is_prepared: false,
            is_dead: false,
            white_space,
            thought,
        }))
    }

    fn vocabulary(&self) -> Result<Arc<Vocabulary>, String> {
        let mut known = self.vocabulary.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vocabulary) = known.upgrade() {
            return Ok(vocabulary);
        }
        let size = u32::try_from(self.vocab_size).map_err(|error| error.to_string())?;
        let stops: Vec<u32> = self.stop_tokens.iter().copied().filter(|token| *token < size).collect();
        let Some(&end) = stops.first() else {
            return Err("the engine has no token that ends an answer".into());
        };
        let words: Vec<Vec<u8>> = (0..size).map(|token| self.word(token)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(&stops);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&tokens).map_err(|error| error.to_string())?;
        factory.quiet().limits_mut().verbose_errors = false;
        let mut spaces = SimpleVob::alloc(self.vocab_size);
        let begins = (0..size).filter(|token| begins_with_space(&words[*token as usize]));
        begins.for_each(|token| spaces.allow_token(token));
        let vocabulary = Arc::new(Vocabulary {
            factory,
            spaces,
            tokenizer: Arc::clone(&self.tokenizer),
            compiled: Mutex::default(),
        });
        *known = Arc::downgrade(&vocabulary);
        Ok(vocabulary)
    }

    /// What a token stands for; nothing where there is none.
    fn word(&self, token: u32) -> Vec<u8> {
        let bytes = self.tokenizer.token_bytes(token);
        let is_special =
            std::str::from_utf8(&bytes).is_ok_and(|name| self.tokenizer.special_tokens().contains(name));
        if is_special { [&[MARKER], &bytes[..]].concat() } else { bytes }
    }
}

/// Whether an answer to this prompt begins with thoughts, which are free. The prompt says so where it has a marker.
fn thinks(prompt_text: &str, enable_thinking: bool) -> bool {
    match (prompt_text.rfind(THINKING), prompt_text.rfind(THOUGHT)) {
        (None, None) => enable_thinking,
        (begin, end) => begin > end,
    }
}

/// A parser that follows one answer.
struct Parsed {
    vocabulary: Arc<Vocabulary>,
    matcher: Matcher,
    /// The tokens that may come next, where it is prepared and not dead.
    mask: SimpleVob,
    is_prepared: bool,
    is_dead: bool,
    /// Of an answer that is JSON from its beginning.
    white_space: Option<WhiteSpace>,
    /// The token that ends the thoughts, as long as it has not come.
    thought: Option<u32>,
}

impl Guide for Parsed {
    fn prepare(&mut self) {
        if self.thought.is_some() || self.is_prepared {
            return;
        }
        self.is_prepared = true;
        self.is_dead = match self.matcher.compute_mask_or_eos() {
            Ok(mask) => {
                self.mask = mask;
                false
            }
            Err(_) => true,
        };
        if let Some(white_space) = &self.white_space {
            white_space.limit(&mut self.mask, &self.vocabulary.spaces);
        }
    }

    fn next(&mut self) -> Allowed<'_> {
        if self.thought.is_some() {
            return Allowed::All;
        }
        self.prepare();
        match self.is_dead {
            true => Allowed::None,
            false => Allowed::Only(self.mask.as_slice()),
        }
    }

    fn take(&mut self, token: u32) {
        match self.thought {
            Some(end) if end == token => self.thought = None,
            Some(_) => {}
            // What it does not take ends the answer with the next token.
            None => {
                self.is_prepared = false;
                let _ = self.matcher.consume_token(token);
                if let Some(white_space) = &mut self.white_space {
                    white_space.take(&self.vocabulary.tokenizer.token_bytes(token));
                }
            }
        }
    }

    fn fork(&self) -> Box<dyn Guide> {
        Box::new(Self {
            vocabulary: Arc::clone(&self.vocabulary),
            matcher: self.matcher.deep_clone(),
            mask: self.mask.clone(),
            is_prepared: self.is_prepared,
            is_dead: self.is_dead,
            white_space: self.white_space.clone(),
            thought: self.thought,
        })
    }
}

fn grammar(wanted: &Wanted) -> Result<TopLevelGrammar, String> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
    match &wanted.guide {
        wire::Guide::JsonObject => Ok(TopLevelGrammar::from_json_schema(json!({ "type": "object" }))),
        wire::Guide::JsonSchema(text) => parse(text).map(TopLevelGrammar::from_json_schema),
        wire::Guide::Regex(regex) => Ok(TopLevelGrammar::from_regex(regex)),
        wire::Guide::Ebnf(text) => gbnf_to_lark(text).map(TopLevelGrammar::from_lark),
        wire::Guide::Choice(choices) => {
            let all: Vec<String> = choices.iter().map(|choice| json!(choice).to_string()).collect();
            Ok(TopLevelGrammar::from_lark(format!("start: {}\n", all.join(" | "))))
        }
        wire::Guide::Calls(functions) => {
            let form = wanted.calls.ok_or("no form of calls is known")?;
            form.grammar(functions).map(TopLevelGrammar::from_lark)
        }
        wire::Guide::StructuralTag(text) => parse(text).and_then(|tag| structural_tag(&tag)),
    }
}

/// Free text until a trigger, then one of the tags that begin with it: its begin, what its schema says, its end.
fn structural_tag(tag: &Value) -> Result<TopLevelGrammar, String> {
    let format = tag.get("format").unwrap_or(tag);
    if format["type"] != "triggered_tags" {
        return Err(format!("format.type is {}; wanted \"triggered_tags\"", format["type"]));
    }
    let strings = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let triggers = strings(&format["triggers"]).ok_or("format.triggers: wanted an array of strings")?;
    let tags = format["tags"].as_array().filter(|tags| !tags.is_empty()).ok_or("format.tags: wanted tags")?;
    let (mut names, mut rules) = (Vec::new(), String::new());
    for (index, tag) in tags.iter().enumerate() {
        let text = |key: &str| {
            tag[key].as_str().ok_or_else(|| format!("format.tags[{index}].{key}: wanted a string"))
        };
        let (begin, end) = (text("begin")?, text("end")?);
        let trigger = triggers.iter().find(|trigger| !trigger.is_empty() && begin.starts_with(&**trigger));
        let trigger =
            trigger.ok_or_else(|| format!("format.tags[{index}].begin: begins with none of the triggers"))?;
        let content = &tag["content"];
        if content["type"] != "json_schema" || !content["json_schema"].is_object() {
            return Err(format!("format.tags[{index}].content: wanted a json_schema"));
        }
        let rest = match &begin[trigger.len()..] {
            "" => String::new(),
            rest => json!(rest).to_string(),
        };
        let end = if end.is_empty() { String::new() } else { json!(end).to_string() };
        let (trigger, schema) = (json!(trigger), &content["json_schema"]);
        names.push(format!("tag_{index}"));
        rules += &format!("tag_{index}: tag_{index}_trigger {rest} tag_{index}_json {end}\n");
        rules += &format!("tag_{index}_trigger[lazy]: TEXT {trigger}\n");
        rules += &format!("tag_{index}_json: %json {schema}\n");
    }
    let start = names.join(" | ");
    Ok(TopLevelGrammar::from_lark(format!(
        "%llguidance {{}}\nstart: ({start})* rest\nrest: TEXT\nTEXT: /(.|\\n)*/\n{rules}"
    )))
}

fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or(text)
}
