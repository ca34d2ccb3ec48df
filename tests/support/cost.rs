//! Answers without what they cost: how many tokens were cached depends on who came before.

/// The text of an answer or of several, with every `cached_tokens` 0.
pub fn without_cost(text: &str) -> String {
    const KEY: &str = "\"cached_tokens\":";
    let mut parts = text.split(KEY);
    let mut found = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start().trim_start_matches(|letter: char| letter.is_ascii_digit());
        found.push_str(&format!("{KEY} 0{rest}"));
    }
    found
}

/// The same for a value.
pub fn value_without_cost(value: &serde_json::Value) -> serde_json::Value {
    serde_json::from_str(&without_cost(&value.to_string())).unwrap()
}
