//! OpenAI's batch files through the program: one answer a line, in order, whatever happens on the way.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::service::jetspool;
use crate::support::serving::{Bench, demo, folder, is_emulated};

fn line(custom_id: &str, body: Value) -> Value {
    let url = if body.get("prompt").is_some() { "/v1/completions" } else { "/v1/chat/completions" };
    json!({ "custom_id": custom_id, "method": "POST", "url": url, "body": body })
}

fn chat(content: &str, more: Value) -> Value {
    let mut body = json!({
        "model": "engine",
        "messages": [{ "role": "user", "content": content }],
        "max_completion_tokens": 6,
        "temperature": 0,
    });
    more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
    body
}

/// Lines of every kind.
fn lines() -> Vec<Value> {
    let person = json!({ "type": "object", "properties": { "age": { "type": "integer", "maximum": 99 } },
        "required": ["age"], "additionalProperties": false });
    let function = json!({ "name": "older", "description": "Adds years.", "parameters": person });
    let tools = json!([{ "type": "function", "function": function }]);
    let format = json!({ "type": "json_schema", "json_schema": { "name": "person", "schema": person } });
    vec![
        line("plain", chat("Translate to French: one", json!({}))),
        line("french", chat("Translate to French: one", json!({ "model": "french" }))),
        line("unknown", chat("x", json!({ "model": "klingon" }))),
        line("three", chat("Translate: two", json!({ "n": 3, "temperature": 1, "seed": 7 }))),
        line("drawn", chat("Translate: two", json!({ "temperature": 1, "max_tokens": 3, "n": 2 }))),
        line("json", chat("An age.", json!({ "response_format": format, "max_completion_tokens": 200 }))),
        line("logprobs", chat("Hello", json!({ "logprobs": true, "top_logprobs": 2, "temperature": 1 }))),
        line(
            "call",
            chat(
                "Older!",
                json!({ "tools": tools, "max_completion_tokens": 300,
            "tool_choice": { "type": "function", "function": { "name": "older" } } }),
            ),
        ),
        line(
            "any",
            chat(
                "Older!",
                json!({ "tools": tools, "tool_choice": "required", "parallel_tool_calls": false, "max_completion_tokens": 400 }),
            ),
        ),
        line(
            "text",
            json!({ "model": "engine", "prompt": "Hello", "max_tokens": 4, "temperature": 0, "logprobs": 1 }),
        ),
        line("penalty", chat("x", json!({ "presence_penalty": 1 }))),
        line("plain", chat("again", json!({}))),
    ]
}

fn text_of(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The lines that `run` answers with.
fn run(folder: &Path, input: &str, more: &[&str]) -> Vec<Value> {
    let [from, to] = ["in.jsonl", "out.jsonl"].map(|name| folder.join(name));
    std::fs::write(&from, input).unwrap();
    let mut command = jetspool(&["run", "--device", "cpu", "--engineDir"]);
    command.arg(demo().join("engine")).arg("--inputFile").arg(from).arg("--outputFile").arg(&to).args(more);
    let done = command.output().unwrap();
    assert!(matches!(done.status.code(), Some(0 | 65)), "{}", String::from_utf8_lossy(&done.stderr));
    parse(&std::fs::read_to_string(to).unwrap())
}

fn parse(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Without what depends on the job and on what others computed before.
fn comparable(answers: &[Value]) -> Vec<Value> {
    let strip = |answer: &Value| {
        let mut answer = answer.clone();
        for name in ["id", "request_id", "created"] {
            for place in ["", "/response", "/response/body"] {
                if let Some(Value::Object(object)) = answer.pointer_mut(place) {
                    object.remove(name);
                }
            }
        }
        if let Some(details) = answer.pointer_mut("/response/body/usage/prompt_tokens_details") {
            *details = Value::Null;
        }
        let choices = answer.pointer_mut("/response/body/choices").and_then(Value::as_array_mut);
        for choice in choices.into_iter().flatten() {
            if let Some(calls) = choice.pointer_mut("/message/tool_calls").and_then(Value::as_array_mut) {
                calls.iter_mut().for_each(|call| call["id"] = Value::Null);
            }
        }
        answer
    };
    answers.iter().map(strip).collect()
}

fn adapters() -> Vec<String> {
    vec!["--loraModules".into(), format!("french={}", demo().join("adapters/french").display())]
}

#[test]
fn run_answers_each_line() {
    let folder = folder();
    let adapters = adapters();
    let more: Vec<&str> = adapters.iter().map(String::as_str).collect();
    let answers = run(folder.path(), &text_of(&lines()), &more);
    let ids: Vec<&str> = answers.iter().map(|answer| answer["custom_id"].as_str().unwrap()).collect();
    let wanted: Vec<String> =
        lines().iter().map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, wanted);
    let status = |index: usize| answers[index]["response"]["status_code"].as_u64().unwrap();
    let choices = |index: usize| answers[index]["response"]["body"]["choices"].as_array().unwrap().as_slice();
    let content = |index: usize| choices(index)[0]["message"]["content"].as_str().unwrap();
    let failed: Vec<(usize, u64)> =
        (0..answers.len()).filter(|i| status(*i) != 200).map(|i| (i, status(i))).collect();
    assert_eq!(failed, [(2, 404), (10, 400), (11, 400)]);
    assert!(answers[2]["error"]["message"].as_str().unwrap().contains("\"engine\""), "{}", answers[2]);
    assert_ne!(content(0), content(1), "the adapter says something else");
    let three: Vec<&Value> = choices(3).iter().map(|choice| &choice["message"]["content"]).collect();
    assert!(three.len() == 3 && three[0] != three[1] && three[1] != three[2], "{three:?}");
    assert_eq!(choices(4)[0]["finish_reason"], "length");
    let age: Value = serde_json::from_str(content(5)).unwrap();
    assert!(age["age"].as_i64().unwrap() <= 99);
    let steps = choices(6)[0]["logprobs"]["content"].as_array().unwrap();
    assert!(
        !steps.is_empty() && steps.iter().all(|step| step["top_logprobs"].as_array().unwrap().len() == 2)
    );
    for index in [7, 8] {
        let choice = &choices(index)[0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        let function = &choice["message"]["tool_calls"][0]["function"];
        assert_eq!(function["name"], "older");
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["age"].as_i64().unwrap() <= 99);
    }
    assert_eq!(choices(9)[0]["logprobs"]["tokens"].as_array().unwrap().len(), 4);
    let usage = &answers[3]["response"]["body"]["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap();
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    // A choice and a line draw what they would draw alone.
    let alone = run(folder.path(), &text_of(&lines()[3..4]), &[]);
    assert_eq!(comparable(&alone), comparable(&answers[3..4]));
}

/// The example that the documents of `vllm run-batch` give, but for the model's name.
#[test]
fn the_documented_example_works() {
    let text = [
        r#"{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "demo", "messages": [{"role": "system", "content": "You are a helpful assistant."},{"role": "user", "content": "Hello world!"}],"max_completion_tokens": 1000}}"#,
        r#"{"custom_id": "request-2", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "demo", "messages": [{"role": "system", "content": "You are an unhelpful assistant."},{"role": "user", "content": "Hello world!"}],"max_completion_tokens": 1000}}"#,
    ];
    let folder = folder();
    let answers = run(folder.path(), &text.join("\n"), &["--servedModelName", "demo"]);
    assert_eq!(answers.len(), 2);
    for (answer, id) in answers.iter().zip(["request-1", "request-2"]) {
        assert_eq!((&answer["custom_id"], &answer["response"]["status_code"]), (&json!(id), &json!(200)));
        let body = &answer["response"]["body"];
        assert_eq!(body["model"], "demo");
        assert!(body["choices"][0]["message"]["content"].is_string());
    }
}

#[test]
fn the_daemon_answers_the_same_and_a_kill_costs_no_line() {
    let n_copies = if is_emulated() { 1 } else { 12 };
    let lines: Vec<Value> = (0..n_copies)
        .flat_map(|copy| {
            lines().into_iter().map(move |mut line| {
                line["custom_id"] = format!("{copy} {}", line["custom_id"].as_str().unwrap()).into();
                line
            })
        })
        .collect();
    let text = text_of(&lines);
    let undisturbed = answered(&text, 0);
    assert_eq!(undisturbed.len(), lines.len());
    for (answer, line) in undisturbed.iter().zip(&lines) {
        assert_eq!(answer["custom_id"], line["custom_id"]);
    }
    assert_eq!(comparable(&answered(&text, 4)), comparable(&undisturbed));
    let folder = folder();
    let adapters = adapters();
    let more: Vec<&str> = adapters.iter().map(String::as_str).collect();
    let mut from_run = comparable(&run(folder.path(), &text, &more));
    let mut from_daemon = comparable(&undisturbed);
    // Only the daemon has a directory of adapters to speak of.
    for answer in from_run.iter_mut().chain(&mut from_daemon).filter(|answer| !answer["error"].is_null()) {
        answer["error"] = Value::Null;
        answer["response"]["body"] = Value::Null;
    }
    assert_eq!(from_run, from_daemon);
}

/// The lines that a daemon answers with that is killed so often.
fn answered(text: &str, n_kills: usize) -> Vec<Value> {
    let folder = folder();
    let bench = Bench::new(folder.path(), "");
    bench.drop_in("x.jsonl", text);
    for _ in 0..n_kills {
        let mut daemon = bench.start("log");
        std::thread::sleep(Duration::from_millis(400));
        daemon.0.kill().unwrap();
        daemon.0.wait().unwrap();
    }
    let _daemon = bench.start("log");
    bench.wait_for("the answer", || bench.has("out", b"x.jsonl") && bench.n_files("work") == 0);
    assert!(bench.has("done", b"x.jsonl"));
    parse(&std::fs::read_to_string(bench.place("out").join("x.jsonl")).unwrap())
}

#[test]
fn a_file_without_lines_is_refused_and_a_copied_one_is_taken() {
    let folder = folder();
    let bench = Bench::new(folder.path(), "settle_ms = 100\n");
    std::fs::write(bench.place("new").join("copied.jsonl"), text_of(&lines()[..1])).unwrap();
    let _daemon = bench.start("log");
    bench.wait_for("the daemon", || bench.log("log").contains("ready: "));
    bench.drop_in("empty.jsonl", "\n\n");
    bench.wait_for("answers", || bench.has("out", b"empty.jsonl") && bench.has("out", b"copied.jsonl"));
    let out = |name: &str| parse(&std::fs::read_to_string(bench.place("out").join(name)).unwrap());
    let empty = out("empty.jsonl");
    assert_eq!(
        (empty.len(), &empty[0]["response"], &empty[0]["error"]["code"]),
        (1, &Value::Null, &json!("bad-file"))
    );
    assert_eq!(out("copied.jsonl")[0]["response"]["status_code"], 200);
    assert!(bench.has("failed", b"empty.jsonl"));
}

/// Peak resident size of a daemon that answers so many lines.
fn peak_kib(n_lines: usize) -> u64 {
    let folder = folder();
    let bench = Bench::new(folder.path(), "fsync = false\n");
    let text: String = (0..n_lines)
        .map(|index| {
            let body =
                chat(&format!("Translate to French: number {index}"), json!({ "max_completion_tokens": 1 }));
            format!("{}\n", line(&format!("line {index}"), body))
        })
        .collect();
    bench.drop_in("x.jsonl", &text);
    let daemon = bench.start("log");
    bench.wait_for_long("the answer", || bench.has("out", b"x.jsonl"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).unwrap();
    let answers = std::fs::read_to_string(bench.place("out").join("x.jsonl")).unwrap();
    let ids = answers
        .lines()
        .zip(0..)
        .filter(|(answer, index)| answer.contains(&format!("\"line {index}\"")))
        .count();
    assert_eq!((ids, answers.lines().count()), (n_lines, n_lines));
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "long: 100,000 lines"]
fn many_lines_take_little_memory() {
    let (few, many) = (peak_kib(100), peak_kib(100_000));
    println!("100 lines: {few} KiB at most, 100,000 lines: {many} KiB");
    assert!(many < few + 64 * 1024, "{few} KiB, {many} KiB");
}
