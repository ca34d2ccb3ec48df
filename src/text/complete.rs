//! Tokens that a checkpoint has outside of its tokenizer.json. transformers adds them when it loads a tokenizer (4.57,
//! tokenization_utils_base.py and tokenization_utils_fast.py); without them `<|im_start|>` would be read in pieces.

use serde_json::{Map, Value, json};

use super::error::TextError;

/// Files beside tokenizer.json that may name tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct BesideTokenizer<'a> {
    /// tokenizer_config.json
    pub config: Option<&'a [u8]>,
    /// added_tokens.json, of older checkpoints: read where the configuration has no added_tokens_decoder.
    pub added_tokens: Option<&'a [u8]>,
    /// special_tokens_map.json, as the one above.
    pub special_tokens_map: Option<&'a [u8]>,
}

/// The special tokens that a configuration names.
const SPECIAL: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// tokenizer.json with the tokens that stand beside it; none where it has all of them.
///
/// # Errors
/// `Damaged` when one of the files is no JSON object.
pub fn with_tokens_beside(
    tokenizer_json: &[u8],
    beside: BesideTokenizer<'_>,
) -> Result<Option<Vec<u8>>, TextError> {
    let config = object(beside.config, "tokenizer_config.json")?;
    let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
    let mut wanted: Vec<Map<String, Value>> = Vec::new();
    match decoder {
        Some(decoder) => {
            let mut tokens: Vec<(u64, &Value)> =
                decoder.iter().filter_map(|(id, token)| Some((id.parse().ok()?, token))).collect();
            tokens.sort_by_key(|(id, _)| *id);
            wanted.extend(tokens.into_iter().filter_map(|(_, token)| added(token, false)));
        }
        None => {
            let tokens = object(beside.added_tokens, "added_tokens.json")?;
            let mut tokens: Vec<(u64, &String)> =
                tokens.iter().filter_map(|(token, id)| Some((id.as_u64()?, token))).collect();
            tokens.sort();
            wanted.extend(tokens.into_iter().filter_map(|(_, token)| added(&json!(token), false)));
        }
    }
    let map = match decoder {
        Some(_) => Map::new(),
        None => object(beside.special_tokens_map, "special_tokens_map.json")?,
    };
    for source in [&config, &map] {
        wanted.extend(SPECIAL.iter().filter_map(|name| added(source.get(*name)?, true)));
        let more = source.get("additional_special_tokens").and_then(Value::as_array);
        wanted.extend(more.into_iter().flatten().filter_map(|token| added(token, true)));
    }
    if wanted.is_empty() {
        return Ok(None);
    }
    add(object(Some(tokenizer_json), "tokenizer.json")?, wanted)
}

fn add(
    mut tokenizer: Map<String, Value>,
    wanted: Vec<Map<String, Value>>,
) -> Result<Option<Vec<u8>>, TextError> {
    let model = tokenizer.get("model").and_then(|model| model.get("vocab")).cloned().unwrap_or_default();
    // Of BPE and WordPiece an object of ids, of Unigram an array of pairs.
    let id_in_model = |token: &str| match &model {
        Value::Object(ids) => ids.get(token).and_then(Value::as_u64),
        Value::Array(pairs) => pairs.iter().position(|pair| pair[0] == token).map(|id| id as u64),
        _ => None,
    };
    let n_in_model = model.as_object().map(Map::len).or(model.as_array().map(Vec::len)).unwrap_or(0) as u64;
    let Some(known) = tokenizer.entry("added_tokens").or_insert_with(|| json!([])).as_array_mut() else {
        return Ok(None);
    };
    let n_before = known.len();
    for mut token in wanted {
        let content = token["content"].as_str().unwrap_or_default().to_owned();
        if known.iter().any(|known| known["content"] == *content) {
            continue;
        }
        // As the tokenizers library counts on.
        let last = known.iter().filter_map(|known| known["id"].as_u64()).max();
        let next = last.map_or(n_in_model, |last| if last >= n_in_model { last + 1 } else { n_in_model });
        token.insert("id".into(), json!(id_in_model(&content).unwrap_or(next)));
        known.push(Value::Object(token));
    }
    if known.len() == n_before {
        return Ok(None);
    }
    known.sort_by_key(|token| token["id"].as_u64());
    Ok(Some(Value::Object(tokenizer).to_string().into_bytes()))
}

/// A token as tokenizer.json has them, but for its id. It may be given as its text alone.
fn added(token: &Value, is_special: bool) -> Option<Map<String, Value>> {
    let content =
        token.as_str().or_else(|| token.get("content")?.as_str()).filter(|text| !text.is_empty())?;
    let flag = |name: &str, default: bool| json!(token.get(name).and_then(Value::as_bool).unwrap_or(default));
    let mut found = Map::new();
    found.insert("content".into(), json!(content));
    for name in ["single_word", "lstrip", "rstrip"] {
        found.insert(name.into(), flag(name, false));
    }
    // What is special is not normalized unless it says so.
    let is_special = is_special || token.get("special").and_then(Value::as_bool).unwrap_or(false);
    found.insert("normalized".into(), flag("normalized", !is_special));
    found.insert("special".into(), json!(is_special));
    Some(found)
}

fn object(json: Option<&[u8]>, file: &'static str) -> Result<Map<String, Value>, TextError> {
    let Some(json) = json else { return Ok(Map::new()) };
    serde_json::from_slice(json).map_err(|error| TextError::Damaged { file, why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENIZER: &str = r#"{"added_tokens": [{"id": 3, "content": "<s>", "special": true}],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<x>": 2}}}"#;

    /// Ids and texts of the added tokens, and which are special.
    fn tokens(config: &str, added: Option<&str>, map: Option<&str>) -> Option<Vec<(u64, String, bool)>> {
        let beside = BesideTokenizer {
            config: Some(config.as_bytes()),
            added_tokens: added.map(str::as_bytes),
            special_tokens_map: map.map(str::as_bytes),
        };
        let json = with_tokens_beside(TOKENIZER.as_bytes(), beside).unwrap()?;
        let json: Value = serde_json::from_slice(&json).unwrap();
        let token = |token: &Value| {
            (
                token["id"].as_u64().unwrap(),
                token["content"].as_str().unwrap().to_owned(),
                token["special"] == true,
            )
        };
        Some(json["added_tokens"].as_array().unwrap().iter().map(token).collect())
    }

    #[test]
    fn tokens_are_taken_from_wherever_checkpoints_keep_them() {
        let token = |id, text: &str, is_special| (id, text.to_owned(), is_special);
        let start = token(3, "<s>", true);
        let decoder = r#"{"added_tokens_decoder": {"5": {"content": "<e>", "special": true},
            "4": {"content": "<t>", "special": false}, "3": {"content": "<s>"}}, "eos_token": "<e>"}"#;
        let wanted = vec![start.clone(), token(4, "<t>", false), token(5, "<e>", true)];
        // What the older files say does not count beside it.
        assert_eq!(tokens(decoder, Some(r#"{"<old>": 9}"#), None), Some(wanted));
        let found =
            tokens("{}", Some(r#"{"<old>": 9, "<x>": 2}"#), Some(r#"{"pad_token": {"content": "<p>"}}"#));
        let wanted =
            vec![token(2, "<x>", false), start.clone(), token(4, "<old>", false), token(5, "<p>", true)];
        assert_eq!(found, Some(wanted));
        assert_eq!(tokens(r#"{"bos_token": "<s>", "eos_token": null}"#, None, None), None);
        assert!(with_tokens_beside(b"[]", BesideTokenizer::default()).unwrap().is_none());
    }
}
