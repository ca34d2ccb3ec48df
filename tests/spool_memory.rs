//! A request file never costs much more memory than its own text, whatever it holds.

#[path = "support/counting.rs"]
mod counting;

use counting::peak_of;
use jetspool::spool::wire::RequestFile;

/// Bytes at the peak of parsing and of reading each request, the text itself included.
fn peak(text: String) -> usize {
    let n_bytes = text.capacity();
    n_bytes
        + peak_of(|| {
            if let Ok(file) = RequestFile::parse(text.into_bytes()) {
                for request in file.requests() {
                    drop(request);
                }
            }
        })
}

#[test]
fn memory_stays_under_twice_the_file() {
    let n = 4 << 20;
    let fill = |head: &str, item: &str, tail: &str| {
        let mut text = head.to_owned();
        while text.len() + item.len() + tail.len() < n {
            text.push_str(item);
        }
        text.push_str(tail);
        text
    };
    let cases = [
        ("many requests", fill(r#"{"requests":["#, "0,", "0]}")),
        ("100,000 requests", fill(r#"{"requests":["#, &format!("{{\"a\":{}}},", "1".repeat(40)), "0]}")),
        ("empty messages", fill(r#"{"requests":[{"messages":["#, "{},", "1]}]}")),
        ("empty items", fill(r#"{"requests":[{"messages":[{"role":"user","content":["#, "[],", "[]]}]}]}")),
        ("stop", fill(r#"{"requests":[{"messages":[],"stop":["#, "\"a\",", "\"a\"]}]}")),
        ("biases", fill(r#"{"logit_bias":{"#, "\"1\":0,", "\"2\":0},\"requests\":[0]}")),
        ("adapters", fill(r#"{"available_lora_weights":{"#, "\"\":\"\",", "\"a\":\"\"},\"requests\":[0]}")),
        ("unknown fields", fill("{", "\"u\\u00e9\":[[],[]],", "\"requests\":[0]}")),
        ("one long key", fill("{\"", "\\u0041", "\":1,\"requests\":[0]}")),
        ("one long text", fill(r#"{"requests":[{"messages":[{"role":"user","content":""#, "\\n", "\"}]}]}")),
        ("long name", fill(r#"{"requests":[{"messages":[],"lora_name":""#, "\\n", "\"}]}")),
        ("id", fill(r#"{"requests":[{"messages":[],"id":["#, "[],", "0]}]}")),
        ("depth", fill("", "[", "")),
        ("not closed", fill("{\"requests\":[", "[0],", "")),
    ];
    for (name, mut text) in cases {
        text.shrink_to_fit();
        let length = text.len();
        let peak = peak(text);
        assert!(peak <= 2 * length, "{name}: {peak} bytes for a text of {length}");
    }
}
