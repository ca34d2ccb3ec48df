//! `ask` at a terminal: a chat that remembers, is interrupted, and forgets.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::ask::{ENDLESS, engine, run};
use crate::support::service::{build_demo, jetspool};
use crate::support::terminal::Terminal;

/// A chat whose answers go into a file.
struct Chat {
    terminal: Terminal,
    folder: tempfile::TempDir,
    /// Bytes of the file that were looked at.
    n_read: usize,
}

impl Chat {
    fn start(engine: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = File::create(folder.path().join("answers")).unwrap();
        let mut command = command(engine, flags);
        let mut terminal = Terminal::start(command.stdout(out));
        terminal.wait_for("\n> ");
        Self { terminal, folder, n_read: 0 }
    }

    fn answers(&self) -> PathBuf {
        self.folder.path().join("answers")
    }

    /// What was written to standard output since this was asked last, without the last line end.
    fn new_answer(&mut self) -> String {
        let text = std::fs::read_to_string(self.answers()).unwrap();
        let new = text[self.n_read..].to_owned();
        self.n_read = text.len();
        new.strip_suffix('\n').unwrap_or_else(|| panic!("{new:?} has no line end")).to_owned()
    }

    /// Types a question; returns its answer and what stood beside it.
    fn ask(&mut self, question: &str) -> (String, String) {
        self.terminal.send(&format!("{question}\n"));
        self.terminal.wait_for("\r\n");
        let beside = self.terminal.wait_for("> ");
        (self.new_answer(), beside)
    }
}

fn command(engine: &str, flags: &[&str]) -> Command {
    let mut command = jetspool(&["ask", "--debug", "--engineDir", engine]);
    command.args(flags);
    command
}

/// Messages from the texts of user and assistant in turn.
fn messages(system: Option<&str>, texts: &[&str]) -> Value {
    let said = |(index, text): (usize, &&str)| json!({"role": if index % 2 == 0 { "user" } else { "assistant" }, "content": text});
    let system = system.into_iter().map(|text| json!({"role": "system", "content": text}));
    Value::Array(system.chain(texts.iter().enumerate().map(said)).collect())
}

#[test]
fn each_question_is_asked_with_all_that_was_said() {
    let greedy =
        |texts: &[&str]| run(&engine(), &json!({"messages": messages(None, texts), "temperature": 0}));
    let text = |answer: &Value| answer["output_text"].as_str().unwrap().to_owned();
    let mut chat = Chat::start(&engine(), &["--temperature", "0"]);
    let (first, _) = chat.ask("Hello");
    assert_eq!(first, text(&greedy(&["Hello"])));
    let (second, beside) = chat.ask("Who are you?");
    let wanted = greedy(&["Hello", &first, "Who are you?"]);
    assert_eq!(second, text(&wanted));
    // The history is read from the cache, and all of it is there.
    let n_prompt = wanted["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(beside.contains(&format!("debug: {n_prompt} prompt tokens")), "{beside}");
    let n_known =
        beside.split(" prompt tokens, ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert!(n_known >= Some(n_prompt / 2), "{beside}");
    chat.terminal.send("/reset\n");
    chat.terminal.wait_for("forgotten\r\n> ");
    // A line goes on after a backslash.
    chat.terminal.send("Who\\\n");
    chat.terminal.wait_for(". ");
    let (alone, beside) = chat.ask("are you?");
    let wanted = greedy(&["Who\nare you?"]);
    assert_eq!(alone, text(&wanted));
    assert!(
        beside.contains(&format!("debug: {} prompt tokens", wanted["usage"]["prompt_tokens"])),
        "{beside}"
    );
    for (keys, shown) in [("/help\n", "/exit"), ("/nothing\n", "there is no /nothing"), ("\n", "> ")] {
        chat.terminal.send(keys);
        chat.terminal.wait_for(shown);
    }
    chat.terminal.send("\x04");
    assert_eq!(chat.terminal.end().code(), Some(0), "{}", chat.terminal.shown());
}

#[test]
fn ctrl_c_ends_the_answer_and_the_history_keeps_what_was_said() {
    let mut flags = ENDLESS.to_vec();
    flags.extend(["--maxGenerateLength", "600"]);
    let mut chat = Chat::start(&engine(), &flags);
    chat.terminal.send("Hello\n");
    while std::fs::metadata(chat.answers()).unwrap().len() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    chat.terminal.send("\x03");
    chat.terminal.wait_for("> ");
    let begun = chat.new_answer();
    let request = |texts: &[&str]| {
        run(
            &engine(),
            &json!({"messages": messages(None, texts), "temperature": 90, "top_p": 1, "top_k": 0,
                "sampling_seed": 3, "max_generate_length": 600}),
        )["output_text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let whole = request(&["Hello"]);
    assert!(whole.starts_with(&begun) && begun.len() < whole.len(), "{begun:?}");
    let (next, _) = chat.ask("Hello again");
    assert_eq!(next, request(&["Hello", &begun, "Hello again"]));
    // At the prompt the first Ctrl-C drops the line and says how to leave, the next one leaves.
    chat.terminal.send("half a question\x03");
    chat.terminal.wait_for("another Ctrl-C\r\n> ");
    chat.terminal.send("\x03");
    assert_eq!(chat.terminal.end().code(), Some(130), "{}", chat.terminal.shown());
}

#[test]
fn a_chat_that_is_too_long_forgets_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let engine = folder.path().join("engine");
    build_demo(&engine, "int8", &["--maxInputLen", "64", "--maxKVCacheCapacity", "128"]);
    let engine = engine.to_str().unwrap();
    let system = "You are a helpful assistant.";
    let mut chat = Chat::start(engine, &["--temperature", "0", "--system", system]);
    let questions = ["Hello", "Who are you?", "What is the capital of France?", "Thank you"];
    let mut said: Vec<String> = Vec::new();
    let mut n_notes = 0;
    for question in questions {
        let (answer, beside) = chat.ask(question);
        // As many of the latest turns as fit.
        let wanted = (0..=said.len() / 2)
            .map(|n_forgotten| {
                let texts: Vec<&str> =
                    said[2 * n_forgotten..].iter().map(String::as_str).chain([question]).collect();
                json!({"messages": messages(Some(system), &texts), "temperature": 0})
            })
            .map(|request| run_or_not(engine, &request))
            .enumerate()
            .find_map(|(n_forgotten, answer)| Some((n_forgotten, answer?)));
        let (n_forgotten, wanted) = wanted.unwrap();
        assert_eq!(answer, wanted["output_text"].as_str().unwrap(), "{question}");
        let n_prompt = &wanted["usage"]["prompt_tokens"];
        assert!(beside.contains(&format!("debug: {n_prompt} prompt tokens")), "{question}: {beside}");
        assert_eq!(beside.contains("forgotten"), n_forgotten > 0, "{beside}");
        n_notes += usize::from(n_forgotten > 0);
        said.drain(..2 * n_forgotten);
        said.extend([question.to_owned(), answer]);
    }
    assert!(n_notes > 0, "nothing was too long");
    // One question that is too long alone is refused, and the chat goes on.
    chat.terminal.send(&format!("{}\n", "Hello ".repeat(90)));
    chat.terminal.wait_for("takes at most 64");
    chat.terminal.wait_for("> ");
    chat.terminal.send("/exit\n");
    assert_eq!(chat.terminal.end().code(), Some(0));
}

/// None where the prompt is too long.
fn run_or_not(engine: &str, request: &Value) -> Option<Value> {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.json"), folder.path().join("out.json"));
    std::fs::write(&input, json!({"requests": [request]}).to_string()).unwrap();
    let mut command = jetspool(&["run", "--engineDir", engine]);
    command.arg("--inputFile").arg(&input).arg("--outputFile").arg(&output).stderr(Stdio::null());
    let is_answered = command.status().unwrap().success();
    let answers: Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
    is_answered.then(|| answers["responses"][0].clone())
}

/// Standard output is the terminal too: whatever the model says, it gives the terminal no orders.
#[test]
fn an_answer_is_shown_and_not_obeyed() {
    let mut flags = ENDLESS.to_vec();
    flags.extend(["--maxGenerateLength", "300"]);
    let (shown, output) = on_screen(&flags);
    let is_order = |c: char| c.is_control() && c != '\t' && c != '\n';
    assert!(output.chars().any(is_order), "the model wrote none: {output:?}");
    let shown: String = shown.replace("\r\n", "\n");
    assert!(!shown.contains(is_order), "{shown:?}");
    assert!(shown.contains(&output.replace(is_order, "\u{FFFD}")), "{shown:?}");
}

/// What the screen shows of one answer, and what `run` says.
fn on_screen(flags: &[&str]) -> (String, String) {
    let mut terminal = Terminal::start_whole(&mut command(&engine(), flags));
    terminal.wait_for("\n> ");
    terminal.send("Hello\n");
    terminal.wait_for("\r\n");
    let shown = terminal.wait_for("tokens/s");
    terminal.send("\x04");
    assert_eq!(terminal.end().code(), Some(0));
    let request = json!({"messages": messages(None, &["Hello"]), "temperature": 90, "top_p": 1, "top_k": 0,
        "sampling_seed": 3, "max_generate_length": 300});
    (shown, run(&engine(), &request)["output_text"].as_str().unwrap().to_owned())
}
