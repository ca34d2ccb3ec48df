//! Answers that must look like something: each guide is kept, alone and beside others, or its request fails by name.

use std::path::Path;

use fancy_regex::Regex;
use serde_json::{Value, json};

use crate::support::service::jetspool;
use crate::support::serving::demo;

/// The answers of `run` to these requests, `batch_size` at a time.
fn answers(folder: &Path, file: &Value) -> Vec<Value> {
    let [input, output] = ["in.json", "out.json"].map(|name| folder.join(name));
    std::fs::write(&input, file.to_string()).unwrap();
    let mut command = jetspool(&["run", "--device", "cpu", "--engineDir"]);
    command.arg(demo().join("engine")).arg("--inputFile").arg(input).arg("--outputFile").arg(&output);
    let done = command.output().unwrap();
    assert!(matches!(done.status.code(), Some(0 | 65)), "{}", String::from_utf8_lossy(&done.stderr));
    let answers: Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
    answers["responses"].as_array().unwrap().clone()
}

fn request(guide: &Value, index: usize) -> Value {
    let content = format!("Translate to French: number {index}");
    let mut request = json!({ "messages": [{ "role": "user", "content": content }], "sampling_seed": index });
    if let Some(fields) = guide.as_object() {
        fields.iter().for_each(|(name, value)| request[name] = value.clone());
    }
    request
}

/// What an answer must be.
type Check = fn(&str) -> bool;

fn person(text: &str) -> bool {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return false };
    let fields = value.as_object().unwrap();
    fields.len() == 2 && value["age"].is_u64() && ["ann", "bob"].contains(&value["name"].as_str().unwrap())
}

fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(text).unwrap()
}

fn cases() -> Vec<(Value, Check)> {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "enum": ["ann", "bob"] },
            "age": { "type": "integer", "minimum": 0, "maximum": 99 },
        },
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    let list = "root ::= item{2,3} # some lines\nitem ::= \"- \" [a-f]+ end-of-line\nend-of-line ::= \"\\n\"";
    let tag = json!({
        "type": "structural_tag",
        "format": {
            "type": "triggered_tags",
            "triggers": ["<call"],
            "tags": [{
                "begin": "<call>",
                "content": { "type": "json_schema", "json_schema": schema },
                "end": "</call>",
            }],
        },
    });
    let named = json!({ "name": "person", "strict": true, "schema": schema });
    vec![
        (Value::Null, |_| true),
        (json!({ "guided_decoding": { "regex": "[0-9]{3}-[a-z]{2,4}" } }), |text| {
            matches("[0-9]{3}-[a-z]{2,4}", text)
        }),
        (json!({ "guided_decoding": { "choice": ["yes", "no", "perhaps \"so\""] } }), |text| {
            ["yes", "no", "perhaps \"so\""].contains(&text)
        }),
        (json!({ "guided_decoding": { "json_schema": schema } }), person),
        (json!({ "guided_decoding": { "json_schema": schema.to_string() } }), person),
        (json!({ "response_format": { "type": "json_schema", "json_schema": named } }), person),
        (json!({ "guided_decoding": { "ebnf": list } }), |text| matches("(- [a-f]+\\n){2,3}", text)),
        (json!({ "guided_decoding": { "structural_tag": tag } }), |text| {
            text.split("<call").skip(1).all(|call| {
                call.strip_prefix('>')
                    .and_then(|call| call.split_once("</call>"))
                    .is_some_and(|(json, _)| person(json))
            })
        }),
        (json!({ "response_format": { "type": "text" } }), |_| true),
    ]
}

#[test]
fn answers_keep_their_guides_alone_and_in_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    for temperature in [0.0, 1.0] {
        let cases = cases();
        let requests: Vec<Value> =
            cases.iter().enumerate().map(|(i, (guide, _))| request(guide, i)).collect();
        // Long enough for each of them, and the end is never chosen where it may not be.
        let file = |requests: Value, batch_size: usize| {
            json!({
                "temperature": temperature, "max_generate_length": 120, "batch_size": batch_size,
                "requests": requests,
            })
        };
        let together = answers(folder.path(), &file(json!(requests), 9));
        for (index, ((guide, check), answer)) in cases.iter().zip(&together).enumerate() {
            let text = answer["output_text"].as_str().unwrap();
            if answer["finish_reason"] != "max-length" {
                assert!(check(text), "{temperature} {guide}: {text:?} {}", answer["finish_reason"]);
            }
            let alone = answers(folder.path(), &file(json!([requests[index]]), 1));
            assert_eq!(alone[0]["token_ids"], answer["token_ids"], "{guide}");
        }
        let n_whole = together.iter().filter(|answer| answer["finish_reason"] != "max-length").count();
        assert!(n_whole >= 6, "{together:#?}");
    }
}

#[test]
fn a_guide_that_cannot_be_kept_fails_its_request_alone() {
    let folder = tempfile::tempdir().unwrap();
    let guides = [
        (json!({ "guided_decoding": { "regex": "a(?=b)" } }), "guide"),
        (json!({ "guided_decoding": { "json_schema": { "type": "array", "uniqueItems": true } } }), "guide"),
        (json!({ "guided_decoding": { "ebnf": "x ::= \"a\"" } }), "guide"),
        (json!({ "guided_decoding": { "structural_tag": { "format": { "type": "any" } } } }), "guide"),
        (json!({ "guided_decoding": { "unknown": 1 } }), "bad-request"),
        (
            json!({ "response_format": { "type": "json_object" }, "guided_decoding": { "regex": "a" } }),
            "bad-request",
        ),
    ];
    let mut requests: Vec<Value> = guides.iter().map(|(guide, _)| request(guide, 0)).collect();
    requests.push(request(&json!({ "guided_decoding": { "choice": ["fine"] } }), 0));
    let found = answers(folder.path(), &json!({ "temperature": 0, "requests": requests }));
    for ((guide, code), answer) in guides.iter().zip(&found) {
        assert_eq!(answer["error"]["code"], *code, "{guide}: {answer}");
        assert_eq!(answer["finish_reason"], "error");
    }
    assert_eq!(found[guides.len()]["output_text"], "fine");
}

#[test]
fn a_default_guide_is_for_all_that_say_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let free = json!({ "response_format": { "type": "text" } });
    let file = json!({
        "temperature": 0,
        "max_generate_length": 8,
        "guided_decoding": { "choice": ["only this"] },
        "requests": [request(&Value::Null, 0), request(&free, 0)],
    });
    let found = answers(folder.path(), &file);
    assert_eq!(found[0]["output_text"], "only this");
    assert_ne!(found[1]["output_text"], "only this");
}

#[test]
fn a_run_that_is_interrupted_writes_what_is_finished() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let folder = tempfile::tempdir().unwrap();
    let [input, output] = ["in.json", "out.json"].map(|name| folder.path().join(name));
    let long = json!({ "messages": [{ "role": "user", "content": "x" }], "max_generate_length": 400,
        "logit_bias": { "4095": -100, "4093": -100 } });
    let requests: Vec<Value> =
        (0..400).map(|index| if index == 0 { request(&Value::Null, 0) } else { long.clone() }).collect();
    std::fs::write(&input, json!({ "temperature": 0, "requests": requests }).to_string()).unwrap();
    let mut command = jetspool(&["run", "--device", "cpu", "--threads", "1", "--engineDir"]);
    command.arg(demo().join("engine")).arg("--inputFile").arg(input).arg("--outputFile").arg(&output);
    let mut run = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let answers: Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
    let answers = answers["responses"].as_array().unwrap();
    assert_eq!(answers.len(), requests.len());
    assert!(answers[0]["error"].is_null(), "{}", answers[0]);
    assert_eq!(answers[399]["error"]["code"], "cancelled");
}
