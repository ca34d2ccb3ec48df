//! `ask` against `run`: the same messages, adapter, seed and sampling give the same text, however it is asked.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::data;
use crate::support::service::{build_demo, jetspool, ok, process_demo};

/// An engine and adapters, made once.
pub fn site() -> &'static Path {
    static SITE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = SITE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        build_demo(&folder.path().join("engine"), "int8", &["--maxInputLen", "4096"]);
        for name in ["french", "german", "medical"] {
            process_demo(name, &folder.path().join("adapters").join(name));
        }
        folder
    });
    folder.path()
}

pub fn engine() -> String {
    site().join("engine").to_str().unwrap().to_owned()
}

fn adapter(name: &str) -> String {
    site().join("adapters").join(name).to_str().unwrap().to_owned()
}

/// An engine that takes adapters up to rank 8 only.
pub fn build_for_rank_8(engine: &Path, more: &[&str]) {
    let mut command = jetspool(&["build", "--maxLoraRank", "8"]);
    command.arg("--modelDir").arg(data("demo/checkpoint")).arg("--engineDir").arg(engine);
    ok(command.args(more));
}

/// What `run` answers to a request, whole.
pub fn run(engine: &str, request: &Value) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.json"), folder.path().join("out.json"));
    let names = ["french", "german", "medical"];
    let files = names.map(|name| {
        (name.to_owned(), json!(site().join(format!("adapters/{name}/processed_adapter_model.safetensors"))))
    });
    let file =
        json!({"available_lora_weights": Value::Object(files.into_iter().collect()), "requests": [request]});
    fs::write(&input, file.to_string()).unwrap();
    ok(jetspool(&["run", "--engineDir", engine])
        .arg("--inputFile")
        .arg(&input)
        .arg("--outputFile")
        .arg(&output));
    let answers: Value = serde_json::from_slice(&fs::read(output).unwrap()).unwrap();
    answers["responses"][0].clone()
}

fn text_of(answer: &Value) -> String {
    format!("{}\n", answer["output_text"].as_str().unwrap())
}

/// `ask` with nothing on standard input.
fn ask(arguments: &[&str]) -> Command {
    let mut command = jetspool(&["ask", "--device", "cpu"]);
    command.args(arguments).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_answer_is_that_of_run() {
    let french = adapter("french");
    let medical_file = format!("{}/processed_adapter_model.safetensors", adapter("medical"));
    let user = |text: &str| json!([{"role": "user", "content": text}]);
    let greedy = "Translate to French: Hello world";
    struct Case<'a> {
        flags: Vec<&'a str>,
        request: Value,
    }
    let cases = [
        Case {
            flags: vec![greedy, "--temperature", "0"],
            request: json!({"messages": user(greedy), "temperature": 0}),
        },
        Case {
            flags: vec![greedy, "--temperature", "0", "--lora", &french],
            request: json!({"messages": user(greedy), "temperature": 0, "lora_name": "french"}),
        },
        Case {
            flags: vec!["What is aspirin?", "--lora", &medical_file, "--loraScale", "0.5", "--topK", "1"],
            request: json!({"messages": user("What is aspirin?"), "lora_name": "medical", "lora_scale": 0.5, "top_k": 1}),
        },
        // All defaults: random, with the seed that is always taken.
        Case { flags: vec!["Hello"], request: json!({"messages": user("Hello")}) },
        // Random tokens: broken characters, and the length is what ends it.
        Case {
            flags: vec![
                "Hello",
                "--system",
                "skill: german",
                "--temperature",
                "90",
                "--top_p",
                "1",
                "--top-k",
                "0",
                "--seed",
                "7",
                "--maxGenerateLength",
                "300",
            ],
            request: json!({
                "messages": [{"role": "system", "content": "skill: german"}, {"role": "user", "content": "Hello"}],
                "temperature": 90, "top_p": 1, "top_k": 0, "sampling_seed": 7, "max_generate_length": 300,
            }),
        },
        Case {
            flags: vec!["Hello", "--temperature", "0", "--stop", "you to", "--stop", "help\u{1}"],
            request: json!({"messages": user("Hello"), "temperature": 0, "stop": ["you to"]}),
        },
    ];
    let mut texts = Vec::new();
    for Case { flags, request } in cases {
        let output = ok(ask(&flags).args(["--engineDir", &engine()]));
        let wanted = run(&engine(), &request);
        assert_eq!(said(&output), text_of(&wanted), "{flags:?}");
        let is_cut = wanted["finish_reason"] == "max-length";
        assert_eq!(complaint(&output).contains("--maxGenerateLength allows more"), is_cut, "{flags:?}");
        assert!(is_cut || output.stderr.is_empty(), "{}", complaint(&output));
        texts.push(said(&output));
    }
    // The cases differ in what they are about, and one was cut by its stop string.
    assert_eq!((texts[1].as_str(), texts[5].as_str()), ("Bonjour le monde\n", "Hello! How can I help \n"));
    assert!(texts[4].contains('\u{FFFD}'), "{}", texts[4]);
}

#[test]
fn a_question_comes_through_a_pipe() {
    let pipe = |question: &[u8]| {
        let mut command = jetspool(&["ask", "--temperature", "0", "--engineDir", &engine()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(question).unwrap();
        child.wait_with_output().unwrap()
    };
    let wanted = run(
        &engine(),
        &json!({"messages": [{"role": "user", "content": "Who are\nyou?"}], "temperature": 0}),
    );
    for question in ["Who are\nyou?", "Who are\nyou?\n", "Who are\nyou?\r\n"] {
        assert_eq!(said(&pipe(question.as_bytes())), text_of(&wanted), "{question:?}");
    }
    for (question, why) in [(&b" \n"[..], "empty"), (b"", "empty"), (b"ab\xff", "byte 2")] {
        let output = pipe(question);
        assert_eq!(output.status.code(), Some(65));
        assert!(complaint(&output).contains(why) && output.stdout.is_empty(), "{}", complaint(&output));
    }
    let long = pipe(&vec![b'a'; (1 << 20) + 1]);
    assert_eq!(long.status.code(), Some(65), "{}", complaint(&long));
}

#[test]
fn engine_and_adapter_come_from_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jetspool.toml");
    let text = format!("engine = {:?}\nadapters = {:?}\n", site().join("engine"), site().join("adapters"));
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let question = "Translate to German: Hello world";
    let output =
        ok(&mut ask(&[question, "--config", config, "--lora", "german", "--temperature", "0", "--debug"]));
    assert_eq!(said(&output), "Hallo Welt\n");
    assert!(complaint(&output).contains(&format!("the engine is {}", engine())), "{}", complaint(&output));
    assert!(complaint(&output).contains("tokens/s"), "{}", complaint(&output));
    let unknown = ask(&[question, "--config", config, "--lora", "germn"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(66));
    assert!(complaint(&unknown).contains("jetspool list"), "{}", complaint(&unknown));
}

#[test]
fn what_is_wrong_is_said_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let small = path("small");
    build_for_rank_8(Path::new(&small), &["--maxInputLen", "64"]);
    let silent = path("silent");
    build_demo(Path::new(&silent), "int8", &[]);
    let config = PathBuf::from(&silent).join("tokenizer_config.json");
    let mut words: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    assert!(words.as_object_mut().unwrap().remove("chat_template").is_some());
    fs::write(config, words.to_string()).unwrap();
    fs::remove_file(Path::new(&silent).join("chat_template.jinja")).unwrap();
    let raw = data("demo/adapters/french");
    let (french, raw) = (adapter("french"), raw.to_str().unwrap());
    let (engine, nowhere, long) = (engine(), path("nowhere"), "Hello ".repeat(100));
    struct Case<'a> {
        flags: &'a [&'a str],
        code: i32,
        why: &'a str,
    }
    let cases = [
        Case {
            flags: &["q", "--engineDir", &nowhere],
            code: 66,
            why: "nowhere is not there, wanted an engine directory",
        },
        Case { flags: &["q", "--engineDir", &engine, "--lora", &nowhere], code: 66, why: "not there" },
        Case {
            flags: &["q", "--engineDir", &engine, "--lora", raw],
            code: 66,
            why: "process-lora --input_dir",
        },
        Case { flags: &["q", "--engineDir", &small, "--lora", &french], code: 65, why: "--maxLoraRank 16" },
        Case { flags: &["q", "--engineDir", &silent], code: 65, why: "has no chat template" },
        Case { flags: &[&long, "--engineDir", &small], code: 65, why: "takes at most 64" },
        Case { flags: &["q", "--config", &nowhere], code: 78, why: "cannot read" },
        Case { flags: &["", "--engineDir", &engine], code: 65, why: "is empty" },
        Case { flags: &["q", "--topP", "0"], code: 64, why: "above 0 and at most 1" },
        Case { flags: &["q", "--temperature", "-1"], code: 64, why: "at least 0" },
        Case { flags: &["q", "--loraScale", "2"], code: 64, why: "--lora" },
    ];
    for Case { flags, code, why } in cases {
        let output = ask(flags).output().unwrap();
        let complaint = complaint(&output);
        assert!(output.status.code() == Some(code) && complaint.contains(why), "{flags:?}: {complaint}");
        assert!(output.stdout.is_empty() && complaint.lines().count() < 12, "{complaint}");
    }
}

/// Flags of an answer that takes a while.
pub const ENDLESS: [&str; 8] = ["--temperature", "90", "--topP", "1", "--topK", "0", "--seed", "3"];

#[test]
fn the_answer_comes_token_by_token_and_ctrl_c_ends_it() {
    let mut command = ask(&["Hello", "--maxGenerateLength", "2000", "--engineDir", &engine()]);
    let mut child = command.args(ENDLESS).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut said = vec![0; 20];
    out.read_exact(&mut said).unwrap();
    // SAFETY: a number and a signal.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    out.read_to_end(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(complaint(&output), "jetspool: interrupted\n");
    let said = String::from_utf8(said).unwrap();
    let whole = run(
        &engine(),
        &json!({"messages": [{"role": "user", "content": "Hello"}], "temperature": 90, "top_p": 1, "top_k": 0,
            "sampling_seed": 3, "max_generate_length": 2000}),
    );
    let whole = text_of(&whole);
    assert!(whole.starts_with(said.strip_suffix('\n').unwrap()) && said.len() < whole.len(), "{said:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = ask(&["Hello", "--maxGenerateLength", "100000", "--engineDir", &engine()]);
    let mut child = command.args(ENDLESS).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", complaint(&output));
}
