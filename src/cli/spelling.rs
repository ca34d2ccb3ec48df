//! Every flag in three spellings: `--engineDir`, `--engine-dir`, `--engine_dir`. Help shows the one it has.

use clap::{Arg, Command};

/// Adds the other spellings of each flag, hidden, and lets values be negative: the parsers of the values
/// refuse those with a better message.
pub fn add_spellings(command: Command) -> Command {
    command.mut_args(add_to_flag).mut_subcommands(add_spellings)
}

fn add_to_flag(flag: Arg) -> Arg {
    let Some(name) = flag.get_long().map(str::to_owned) else { return flag };
    let flag = flag.aliases(other_spellings(&name));
    if flag.get_action().takes_values() { flag.allow_negative_numbers(true) } else { flag }
}

fn other_spellings(name: &str) -> Vec<String> {
    let words = words(name);
    let camel = words.iter().enumerate().map(|(index, word)| match index {
        0 => word.clone(),
        _ => word[..1].to_uppercase() + &word[1..],
    });
    let mut spellings = vec![words.join("-"), words.join("_"), camel.collect()];
    spellings.dedup();
    spellings.retain(|spelling| spelling != name);
    spellings
}

/// `maxKVCacheLen`, `max-kv-cache-len` and `max_kv_cache_len` are max, kv, cache, len. ASCII only.
fn words(name: &str) -> Vec<String> {
    let bytes = name.as_bytes();
    let mut words = vec![String::new()];
    for (index, &byte) in bytes.iter().enumerate() {
        let is_upper_at = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_uppercase);
        let is_lower_at = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_lowercase);
        let starts_word =
            index > 0 && is_upper_at(index) && (!is_upper_at(index - 1) || is_lower_at(index + 1));
        if (starts_word || byte == b'-' || byte == b'_') && words.last().is_some_and(|word| !word.is_empty())
        {
            words.push(String::new());
        }
        if byte != b'-' && byte != b'_' {
            words.last_mut().expect("it starts with one").push(char::from(byte.to_ascii_lowercase()));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        let cases = [
            ("engineDir", "engine-dir engine_dir"),
            ("input_dir", "input-dir inputDir"),
            ("maxKVCacheCapacity", "max-kv-cache-capacity max_kv_cache_capacity maxKvCacheCapacity"),
            ("code2wavEngineDir", "code2wav-engine-dir code2wav_engine_dir"),
            ("specDraftTopK", "spec-draft-top-k spec_draft_top_k"),
            ("wait", ""),
        ];
        for (name, wanted) in cases {
            assert_eq!(other_spellings(name).join(" "), wanted, "{name}");
        }
    }
}
