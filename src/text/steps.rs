//! What the steps of a tokenizer.json may cost. Each can make a text longer, and a list of them multiplies that; the
//! library keeps 17 bytes for each byte of a text, so that a hostile file would take all memory.

use serde_json::Value;

use super::error::{TextError, damaged};

/// Steps of one part. Real ones have up to eight.
const MAX_STEPS: usize = 16;
/// How many times longer all steps together may make a text. Real ones come to 12.
const MAX_GROWTH: usize = 32;
/// Bytes of a text that a step puts or looks for.
const MAX_TEXT_BYTES: usize = 1 << 10;
/// Bytes of a regular expression.
const MAX_PATTERN_BYTES: usize = 16 << 10;
/// Bytes of a token. Real ones have up to 500.
pub(super) const MAX_TOKEN_BYTES: usize = 4 << 10;

/// Refuses a part (`what`) whose steps cost too much. `members` is the key of the steps of a sequence.
///
/// # Errors
/// `Damaged` with the limit.
pub(super) fn check_steps(part: &Value, what: &str, members: &str) -> Result<(), TextError> {
    let mut cost = Cost { n_steps: 0, growth: 1 };
    cost.add(part, members).map_err(|why| damaged(format!("{what}: {why}")))
}

struct Cost {
    n_steps: usize,
    growth: usize,
}

impl Cost {
    fn add(&mut self, step: &Value, members: &str) -> Result<(), String> {
        self.n_steps += 1;
        if self.n_steps > MAX_STEPS {
            return Err(format!("more than {MAX_STEPS} steps"));
        }
        let text = |pointer: &str| step.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let limits = [
            ("/prepend", MAX_TEXT_BYTES),
            ("/content", MAX_TEXT_BYTES),
            ("/pattern/String", MAX_TEXT_BYTES),
            ("/pattern/Regex", MAX_PATTERN_BYTES),
        ];
        for (pointer, limit) in limits {
            let found = text(pointer).len();
            if found > limit {
                return Err(format!("{pointer} has {found} bytes, more than the limit of {limit}"));
            }
        }
        let growth = match text("/type") {
            // A piece of text may be a single byte.
            "Prepend" => 1 + text("/prepend").len(),
            "Replace" => text("/content").len().div_ceil(text("/pattern/String").len().max(1)),
            "ByteLevel" => 2,
            "Metaspace" => 3,
            _ => 1,
        };
        self.growth = self.growth.saturating_mul(growth.max(1));
        if self.growth > MAX_GROWTH {
            return Err(format!("its steps can make a text more than {MAX_GROWTH} times longer"));
        }
        let steps = step.get(members).and_then(Value::as_array);
        steps.into_iter().flatten().try_for_each(|step| self.add(step, members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn steps_have_limits() {
        let replace =
            |found: &str, put: &str| json!({"type": "Replace", "pattern": {"String": found}, "content": put});
        let many = |step: Value, n: usize| json!({"type": "Sequence", "normalizers": vec![step; n]});
        struct Case {
            part: Value,
            wrong: Option<&'static str>,
        }
        let metaspace = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]});
        let cases = [
            Case { part: metaspace, wrong: None },
            Case { part: many(json!({"type": "Digits"}), 15), wrong: None },
            Case { part: many(replace("abc", "abcd"), 5), wrong: None },
            Case { part: many(replace("a", "b"), 16), wrong: Some("more than 16 steps") },
            Case { part: many(replace("a", "aa"), 6), wrong: Some("more than 32 times") },
            Case { part: many(json!({"type": "ByteLevel"}), 6), wrong: Some("more than 32 times") },
            Case { part: many(many(json!({"type": "NFC"}), 4), 4), wrong: Some("more than 16 steps") },
            Case { part: json!({"type": "Prepend", "prepend": "x".repeat(2000)}), wrong: Some("2000 bytes") },
            Case { part: json!({"type": "Prepend", "prepend": "x".repeat(32)}), wrong: Some("32 times") },
            Case {
                part: json!({"type": "Split", "pattern": {"Regex": "x".repeat(20_000)}}),
                wrong: Some("20000 bytes"),
            },
        ];
        for Case { part, wrong } in cases {
            match (check_steps(&part, "normalizer", "normalizers"), wrong) {
                (Ok(()), None) => {}
                (Err(error), Some(wrong)) => assert!(error.to_string().contains(wrong), "{part}: {error}"),
                (found, _) => panic!("{part}: {found:?}"),
            }
        }
    }
}
