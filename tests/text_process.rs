//! What templates, tokenizers and texts do to the process that works on them, they do to nobody else. A test kills its
//! children: so this is a program of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use jetspool::answer::{
    Launch, NotPrepared, Prepared, PromptRequest, TextLimits, TextProcess, TextProcessOptions, Usage,
};
use jetspool::spool::wire::{ChatOptions, FaultCode};
use jetspool::text::ChatMessage;
use serde_json::{Map, Value, json};

const MIB: u64 = 1 << 20;
/// The content that a template answers with something monstrous.
const MONSTER: &str = "monster";

fn is_emulated() -> bool {
    std::env::var_os("JETSPOOL_TEST_RUNNER").is_some()
}

/// The words that start the program, with an emulator in front where the tests run on one.
fn program() -> Vec<OsString> {
    let runner = std::env::var("JETSPOOL_TEST_RUNNER").unwrap_or_default();
    runner.split_whitespace().chain([env!("CARGO_BIN_EXE_jetspool")]).map(OsString::from).collect()
}

/// Every character of ASCII is a token; words of `a` are merged up to 512 of them.
fn tokenizer() -> Value {
    let mut vocab = Map::new();
    for character in (' '..='~').chain(['\n']) {
        vocab.insert(character.to_string(), vocab.len().into());
    }
    let mut merges = Vec::new();
    for length in 0..9 {
        let half = "a".repeat(1 << length);
        vocab.insert(format!("{half}{half}"), vocab.len().into());
        merges.push(format!("{half} {half}"));
    }
    vocab.insert("<unk>".into(), vocab.len().into());
    json!({"version": "1.0", "added_tokens": [{"id": 0, "content": "<|end|>", "special": true}],
        "normalizer": null, "pre_tokenizer": null, "decoder": null,
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": merges}})
}

/// The text files of an engine.
struct Texts(tempfile::TempDir);

impl Texts {
    fn new(template: &str) -> Self {
        let texts = Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        texts.write("tokenizer.json", &tokenizer().to_string());
        texts.write("chat_template.jinja", template);
        texts
    }

    /// A template with a monster in it.
    fn with_monster(monster: &str) -> Self {
        Self::new(&format!(
            "{{% if messages[0].content == '{MONSTER}' %}}{monster}{{% else %}}{{{{ messages[0].content }}}}\
             {{% endif %}}<|end|>"
        ))
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn process(&self, limits: TextLimits) -> TextProcess {
        let launch = Launch::words(program());
        let (directory, max_input_len) = (self.path().to_owned(), 1 << 20);
        TextProcess::new(TextProcessOptions { directory, max_input_len, limits, launch }).unwrap()
    }
}

fn limits(ms: u64, mib: u64) -> TextLimits {
    let slowness = if is_emulated() { 10 } else { 1 };
    // An emulator takes memory of its own.
    TextLimits { time: Duration::from_millis(ms * slowness), memory_bytes: mib * slowness * MIB }
}

fn request(content: &str) -> PromptRequest {
    let messages = vec![ChatMessage::new("user", content)];
    PromptRequest { messages, tools: None, chat: ChatOptions::default(), local_time: 0 }
}

/// Whether the process prepares an ordinary request.
fn check_works(process: &mut TextProcess) {
    let prepared = process.prepare(&request("Hi")).unwrap();
    let wanted = Prepared {
        system_prompt: prepared.system_prompt.clone(),
        prompt_text: "Hi<|end|>".into(),
        tokens: prepared.tokens.clone(),
    };
    assert_eq!(prepared, wanted);
    assert_eq!(prepared.tokens.len(), 3);
}

/// The processes that this thread's process started and that still run.
fn children() -> Vec<i32> {
    let me = std::process::id();
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind = stat.rsplit(')').next().unwrap_or_default();
        let mut fields = behind.split_whitespace();
        fields.next() != Some("Z") && fields.next().and_then(|parent| parent.parse().ok()) == Some(me)
    })
    .collect()
}

/// Tests of this file look for processes of their own: one at a time.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn monsters_cost_their_own_request() {
    let _alone = alone();
    let double =
        "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let list = "{% set ns = namespace(x=range(99999) | list) %}{% for i in range(10) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
    let monsters = [
        format!("{double}{{{{ ns.x == ns.x + [] }}}}"),
        format!("{double}{{% set y = ns.x %}}{double}{{{{ y == ns.x }}}}"),
        format!("{double}{{{{ ns.x ~ '' }}}}"),
        format!("{double}{{{{ [ns.x, ns.x] | sort | length }}}}"),
        format!("{double}{{{{ ns.x | tojson }}}}"),
        format!("{double}{{{{ [ns.x] | join }}}}"),
        format!("{list}{{{{ ns.x | sort | length }}}}"),
        format!("{list}{{{{ ns.x | join }}}}"),
        format!("{list}{{{{ ns.x | tojson }}}}"),
        format!("{list}{{{{ (ns.x ~ '') | length }}}}"),
        format!("{list}{{{{ (ns.x * 1000) | unique | list | length }}}}"),
        "{{ ('x' * 99999999) | replace('x', 'yyyyyyyyyyyyyyyy') | length }}".to_owned(),
        "{{ range(99999) | batch(2) | list | tojson | length }}".to_owned(),
        "{{ 'a' * 1000000 }}".to_owned(),
    ];
    let before = Usage::read().unwrap().anonymous;
    let mut n_costly = 0;
    // An emulator takes its time, and does the same.
    for monster in monsters.into_iter().take(if is_emulated() { 4 } else { usize::MAX }) {
        let texts = Texts::with_monster(&monster);
        let mut process = texts.process(limits(1000, 100));
        check_works(&mut process);
        let start = Instant::now();
        match process.prepare(&request(MONSTER)) {
            Err(NotPrepared::Refused(fault)) if fault.code == FaultCode::PromptTooCostly => {
                assert!(fault.message.contains("making the prompt"), "{}", fault.message);
                println!("{:?} {:.60} {:.60}", start.elapsed(), monster, fault.message);
                n_costly += 1;
            }
            Err(NotPrepared::Refused(fault)) => println!("{:?} {:.60} {}", start.elapsed(), monster, fault),
            Ok(prepared) => {
                println!("{:?} {:.60} {} tokens", start.elapsed(), monster, prepared.tokens.len())
            }
            Err(error) => panic!("{monster}: {error}"),
        }
        assert!(start.elapsed() < Duration::from_secs(if is_emulated() { 30 } else { 5 }), "{monster}");
        check_works(&mut process);
    }
    let after = Usage::read().unwrap().anonymous;
    assert!(n_costly >= 2, "{n_costly}");
    assert!(after < before + 20 * MIB, "{before} {after}");
    assert!(children().is_empty(), "all have ended");
}

#[test]
fn slow_texts_cost_their_own_request() {
    let _alone = alone();
    let texts = Texts::new("{{ messages[0].content }}<|end|>");
    let mut process = texts.process(limits(60, 100));
    // The first one starts the process, which may take longer here.
    let mut process_with_time = texts.process(limits(10_000, 200));
    check_works(&mut process_with_time);
    let prepared = process_with_time.prepare(&request(&"a".repeat(100_000))).unwrap();
    assert!(prepared.tokens.len() < 100_000 / 512 + 16);
    match process.prepare(&request(&"a".repeat(900_000))) {
        Err(NotPrepared::Refused(fault)) => {
            assert_eq!(fault.code, FaultCode::PromptTooCostly, "{fault}");
            assert!(fault.message.contains("takes more than"), "{fault}");
        }
        other => assert!(is_emulated(), "{other:?}"),
    }
}

#[test]
fn a_process_that_is_killed_is_started_again() {
    let _alone = alone();
    let forever = "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}\
                   {% set y = ns.x %}{% set ns.x = [1] %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}\
                   {% endfor %}{{ y == ns.x }}";
    let texts = Texts::with_monster(forever);
    let mut process = texts.process(limits(60_000, 500));
    check_works(&mut process);
    let kill = |pid: i32| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
    // While it waits.
    for child in children() {
        kill(child).unwrap();
    }
    check_works(&mut process);
    // While it works: once is bad luck, twice is the request's fault.
    let killed = std::thread::scope(|scope| {
        let killed = scope.spawn(|| process.prepare(&request(MONSTER)));
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(if is_emulated() { 5000 } else { 500 }));
            for child in children() {
                kill(child).unwrap();
            }
        }
        killed.join().unwrap()
    });
    let Err(NotPrepared::Refused(fault)) = killed else { panic!("{killed:?}") };
    assert_eq!(fault.code, FaultCode::PromptTooCostly, "{fault}");
    assert!(fault.message.contains("broke its process"), "{fault}");
    check_works(&mut process);
    // By somebody who does not want the answer any more.
    let canceller = process.canceller();
    canceller.cancel();
    check_works(&mut process);
    let start = Instant::now();
    let cancelled = std::thread::scope(|scope| {
        let cancelled = scope.spawn(|| process.prepare(&request(MONSTER)));
        std::thread::sleep(Duration::from_millis(300));
        canceller.cancel();
        cancelled.join().unwrap()
    });
    assert!(matches!(cancelled, Err(NotPrepared::Cancelled)), "{cancelled:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    check_works(&mut process);
    process.stop();
    assert!(children().is_empty());
}

#[test]
fn files_that_are_replaced_change_nothing() {
    let _alone = alone();
    let texts = Texts::with_monster("");
    let mut process = texts.process(limits(10_000, 200));
    let (template, other) = (texts.path().join("chat_template.jinja"), texts.path().join("other"));
    std::fs::write(&other, "changed").unwrap();
    std::fs::rename(other, template).unwrap();
    std::fs::remove_file(texts.path().join("tokenizer.json")).unwrap();
    check_works(&mut process);
    process.stop();
    check_works(&mut process);
}

#[test]
fn texts_that_cannot_be_opened_are_refused_with_the_reason() {
    let _alone = alone();
    let large_steps = json!({"type": "Sequence", "normalizers":
        vec![json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}); 30]});
    let mut hostile = tokenizer();
    hostile["normalizer"] = large_steps;
    struct Case {
        template: String,
        tokenizer: Option<String>,
        why: &'static str,
    }
    let template = |template: String, why: &'static str| Case { template, tokenizer: None, why };
    let cases = [
        template(format!("{{{{ {}1 }}}}", "-".repeat(23_000)), "words and marks"),
        template(format!("{{{{ {}x }}}}", "not ".repeat(23_000)), "words and marks"),
        template(format!("{{{{ x{} }}}}", "~x".repeat(23_000)), "words and marks"),
        template("{% if x %}".repeat(2_000), "blocks"),
        template("{{".to_owned(), "cannot be read"),
        template(
            "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}\
             {{ ns.x ~ '' }}"
                .to_owned(),
            "",
        ),
        Case { template: "x".to_owned(), tokenizer: Some(hostile.to_string()), why: "more than 32 times" },
        Case { template: "x".to_owned(), tokenizer: Some("{".to_owned()), why: "tokenizer.json is damaged" },
    ];
    for Case { template, tokenizer, why } in cases {
        let texts = Texts::new(&template);
        if let Some(tokenizer) = tokenizer {
            texts.write("tokenizer.json", &tokenizer);
        }
        let found = texts.process(limits(2000, 200)).check();
        match found {
            Err(error) => assert!(error.contains(why), "{template:.40}: {error}"),
            Ok(()) => assert_eq!(why, "", "{template:.40}"),
        }
    }
    assert_eq!(Texts::new("{{ raise_exception('no') }}").process(limits(2000, 200)).check(), Ok(()));
    assert_eq!(Texts::with_monster("").process(limits(2000, 200)).check(), Ok(()));
}

/// A copy of the demo checkpoint with another template.
fn checkpoint(root: &Path, template: &str) -> PathBuf {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/demo/checkpoint");
    let copy = root.join("checkpoint");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(demo).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(copy.join("chat_template.jinja"), template).unwrap();
    copy
}

#[test]
fn build_and_inspect_survive_hostile_templates() {
    let _alone = alone();
    let list = "{% set ns = namespace(x=range(99999) | list) %}{% for i in range(10) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
    for (template, why) in [
        (format!("{{{{ {}1 }}}}", "-".repeat(23_000)), "words and marks"),
        (format!("{list}{{{{ ns.x | tojson }}}}"), "making the prompt"),
    ] {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let checkpoint = checkpoint(root.path(), &template);
        let jetspool = |words: &[&str]| {
            let program = program();
            let mut command = Command::new(&program[0]);
            command.args(&program[1..]).args(words);
            command.output().unwrap()
        };
        let engine = root.path().join("engine");
        let built = jetspool(&[
            "build",
            "--modelDir",
            checkpoint.to_str().unwrap(),
            "--engineDir",
            engine.to_str().unwrap(),
        ]);
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        assert_eq!(built.status.code(), Some(65), "{said}");
        assert!(said.contains(why), "{said}");
        assert!(!engine.exists(), "{said}");
        let inspected = jetspool(&["inspect", checkpoint.to_str().unwrap()]);
        assert_eq!(inspected.status.code(), Some(0), "{}", String::from_utf8_lossy(&inspected.stderr));
    }
}

/// A byte-pair tokenizer with as many tokens as those of today's models, and what it is compiled to.
fn large_tokenizer() -> (String, Vec<u8>) {
    let mut vocab = Map::new();
    let mut merges = Vec::new();
    let letters: Vec<char> = (' '..='~').chain(['\n']).collect();
    for letter in &letters {
        vocab.insert(letter.to_string(), vocab.len().into());
    }
    let solid = || letters.iter().filter(|letter| !letter.is_whitespace());
    let pairs: Vec<String> = solid().flat_map(|a| solid().map(move |b| format!("{a}{b}"))).collect();
    for pair in &pairs {
        let (left, right) = pair.split_at(1);
        merges.push(format!("{left} {right}"));
        vocab.insert(pair.clone(), vocab.len().into());
    }
    for (pair, letter) in pairs.iter().flat_map(|pair| solid().map(move |letter| (pair, letter))) {
        if vocab.len() == 151_000 {
            break;
        }
        merges.push(format!("{pair} {letter}"));
        vocab.insert(format!("{pair}{letter}"), vocab.len().into());
    }
    vocab.insert("<unk>".into(), vocab.len().into());
    let mut whole = tokenizer();
    whole["model"] = json!({"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": merges});
    let json = whole.to_string();
    let table = jetspool::text::Tokenizer::compile(json.as_bytes()).unwrap().to_vec();
    (json, table)
}

#[test]
fn the_process_is_small_and_starts_soon() {
    let _alone = alone();
    if is_emulated() {
        return;
    }
    let texts = Texts::new("{% for m in messages %}{{ m.content }}{% endfor %}<|end|>");
    let (json, table) = large_tokenizer();
    let limits = limits(10_000, 250);
    let mut private = Vec::new();
    for (name, has_table) in [("small", true), ("151k", true), ("151k, no table", false)] {
        if name != "small" {
            texts.write("tokenizer.json", &json);
            std::fs::write(texts.path().join("tokenizer.table"), &table).unwrap();
        }
        if !has_table {
            std::fs::remove_file(texts.path().join("tokenizer.table")).unwrap();
        }
        let mut process = texts.process(limits);
        let time = |process: &mut TextProcess, text: &str| {
            let start = Instant::now();
            process.prepare(&request(text)).unwrap();
            start.elapsed()
        };
        let first = time(&mut process, "Hello, how are you?");
        let next = (0..50).map(|_| time(&mut process, "Hello, how are you?")).min().unwrap();
        let anonymous = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", children()[0])).unwrap();
            let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
        };
        let small = anonymous();
        let long = time(&mut process, &"word and word. ".repeat(60_000));
        println!(
            "{name}: first {first:?}, next {next:?}, 900 kB {long:?}; private {} KiB, then {} KiB",
            small >> 10,
            anonymous() >> 10
        );
        let start = Instant::now();
        process.check().unwrap();
        println!("  check {:?}", start.elapsed());
        private.push(small);
    }
    assert!(private[0] < 8 * MIB && private[1] < 8 * MIB, "{private:?}");
}
