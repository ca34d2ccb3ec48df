//! Flags of the workflow's programs that mean nothing here. Where that does no harm they are taken and noted;
//! where the result would be another one they are refused by name.

use clap::builder::{StyledStr, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Error};

const SPECULATIVE: &str = "speculative decoding is not supported";
const MEDIA: &str = "images and audio are not supported";
const CACHE: &str = "contexts are kept in blocks of keys and values, and in nothing else";
const ALONE: &str = "it only matters with speculative decoding";

/// What is done about a flag.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Taken without a value; the reason why it does nothing.
    NoSwitch(&'static str),
    /// Taken with a value; the reason why it does nothing.
    NoValue(&'static str),
    /// Taken without a value, and true without it.
    Granted,
    /// Refused with a reason; the advice to leave it out is added.
    Refused(&'static str),
}

use Fate::{Granted, NoSwitch, NoValue, Refused};

const OF_BUILD: &[(&str, Fate)] = &[
    ("specBase", Refused(SPECULATIVE)),
    ("specDraft", Refused(SPECULATIVE)),
    ("eagleBase", Refused(SPECULATIVE)),
    ("eagleDraft", Refused(SPECULATIVE)),
    ("maxVerifyTreeSize", NoValue(ALONE)),
    ("maxDraftTreeSize", NoValue(ALONE)),
    ("maxKVPoolPages", NoValue("cache pages are taken as they are needed")),
    ("profilingDetailed", NoSwitch("there are no layers of another engine to profile")),
];

const OF_RUN: &[(&str, Fate)] = &[
    ("checkpointDir", Refused("the engine directory holds all that is needed")),
    ("specDecode", Refused(SPECULATIVE)),
    ("eagle", Refused(SPECULATIVE)),
    ("draftCheckpointDir", Refused(SPECULATIVE)),
    ("multimodalEngineDir", Refused(MEDIA)),
    ("enableAudioOutput", Refused(MEDIA)),
    ("talkerEngineDir", Refused(MEDIA)),
    ("code2wavEngineDir", Refused(MEDIA)),
    ("outputAudioDir", Refused(MEDIA)),
    ("enableThinkerTalkerStreaming", Refused(MEDIA)),
    ("specDraftTopK", NoValue(ALONE)),
    ("specDraftStep", NoValue(ALONE)),
    ("specVerifySize", NoValue(ALONE)),
    ("eagleDraftTopK", NoValue(ALONE)),
    ("eagleDraftStep", NoValue(ALONE)),
    ("eagleVerifyTreeSize", NoValue(ALONE)),
    ("dflashBlockSize", NoValue(ALONE)),
    ("enableContextReuse", Granted),
    ("contextCacheRecurrentSnapshotPoolBytes", NoValue(CACHE)),
    ("contextCachePartialKVSnapshotPoolBytes", NoValue(CACHE)),
];

const OF_EXPORT: &[(&str, Fate)] = &[
    ("device", NoValue("nothing is computed but types")),
    ("isEagleBase", Refused(SPECULATIVE)),
    ("eagleBase", Refused(SPECULATIVE)),
    ("reducedVocabDir", Refused("the vocabulary is exported whole")),
    ("chatTemplate", Refused("a processed_chat_template.json in the checkpoint directory comes along")),
    ("fp8KvCache", Refused("caches have the type that --dtype names")),
    ("fp8Embedding", Refused("the embedding has the type that --dtype names")),
    ("externalizeWeights", Refused("all weights are external already")),
    ("skipLlm", Refused("there is nothing else to export")),
    ("components", Refused("only the language model is exported")),
    ("numDecoderLayer", Refused("all layers are exported")),
    ("tpSize", Refused("a model is not cut for several devices")),
    ("int4GemmPluginVersion", NoValue("operators of the standard are written, no plugins")),
];

const OF_BENCH: &[(&str, Fate)] = &[
    ("draftTreeSize", Refused(SPECULATIVE)),
    ("osl", Refused("one step is timed")),
    ("warmup", NoValue("one step is always left out of the times")),
    ("useCudaGraph", NoSwitch("there is no CUDA graph on the CPU")),
    ("profile", NoSwitch("the report is always whole")),
    ("noProfile", NoSwitch("the report is always whole")),
];

const OF_MERGE: &[(&str, Fate)] = &[("device", NoValue("merging is computed on the CPU"))];

fn flags_of(command: &str) -> &'static [(&'static str, Fate)] {
    match command {
        "build" => OF_BUILD,
        "run" => OF_RUN,
        "bench" => OF_BENCH,
        "export-llm" => OF_EXPORT,
        "merge-lora" => OF_MERGE,
        _ => &[],
    }
}

/// Adds a command's flags to it, hidden.
pub fn add_flags(command: Command) -> Command {
    let flags = flags_of(command.get_name());
    command.args(flags.iter().map(|&(name, fate)| {
        let flag = Arg::new(name).long(name).hide(true);
        match fate {
            NoSwitch(_) | Granted => flag.action(ArgAction::SetTrue),
            NoValue(_) => flag.num_args(1).allow_hyphen_values(true),
            Refused(why) => {
                flag.num_args(0..=1).default_missing_value("").value_parser(Refusal { name, why })
            }
        }
    }))
}

/// A line for each flag that was given and does nothing.
pub fn notes(command: &str, matches: &ArgMatches) -> Vec<String> {
    let is_given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
    let flags = flags_of(command).iter().filter(|(name, _)| is_given(name));
    flags
        .filter_map(|&(name, fate)| match fate {
            NoSwitch(why) | NoValue(why) => Some(format!("--{name} does nothing here: {why}")),
            Granted | Refused(_) => None,
        })
        .collect()
}

/// A value parser that takes nothing. It speaks before clap looks for flags that are missing.
#[derive(Debug, Clone)]
struct Refusal {
    name: &'static str,
    why: &'static str,
}

impl TypedValueParser for Refusal {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        _: Option<&Arg>,
        _: &std::ffi::OsStr,
    ) -> Result<Self::Value, Error> {
        let text = StyledStr::from(format!("{}; leave --{} out", self.why, self.name));
        Err(command.clone().error(ErrorKind::ArgumentConflict, text))
    }
}
