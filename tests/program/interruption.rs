//! Ctrl-C and SIGTERM at any moment: a tool leaves nothing half written, and a run goes on where it was interrupted.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::data;
use crate::support::service::{jetspool, ok};
use crate::support::serving::demo;

/// A tool, and where it writes.
struct Tool {
    name: &'static str,
    flags: Vec<String>,
    output: PathBuf,
    /// A file that is there before; else the tool makes the directory.
    input: Option<PathBuf>,
}

/// All tools of the chain, each with a place of its own below `scratch`.
fn tools(scratch: &Path) -> Vec<Tool> {
    let place = |name: &str| scratch.join(name).join("made/output");
    let checkpoint = data("demo/checkpoint").display().to_string();
    let adapter = data("demo/adapters/french").display().to_string();
    let onnx = scratch.join("onnx/output");
    ok(jetspool(&["export-llm", "--model_dir", &checkpoint, "--output_dir"]).arg(&onnx));
    let tool = |name: &'static str, flags: &[&str], flag: &str| {
        let output = place(name);
        let mut flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        flags.extend([flag.to_owned(), output.display().to_string()]);
        Tool { name, flags, output, input: None }
    };
    vec![
        tool("build", &["--modelDir", &checkpoint, "--precision", "int4"], "--engineDir"),
        tool("quantize-llm", &["--model_dir", &checkpoint, "--quantization", "int4_awq"], "--output_dir"),
        tool("merge-lora", &["--model_dir", &checkpoint, "--lora_dir", &adapter], "--output_dir"),
        tool("export-llm", &["--model_dir", &checkpoint], "--output_dir"),
        tool("process-lora", &["--input_dir", &adapter], "--output_dir"),
        Tool {
            name: "insert-lora",
            flags: vec!["--onnx_dir".to_owned(), onnx.display().to_string()],
            output: onnx.clone(),
            input: Some(onnx.join("model.onnx")),
        },
    ]
}

impl Tool {
    fn start(&self) -> Child {
        let mut command = jetspool(&[self.name]);
        command.args(&self.flags).stdout(Stdio::null()).stderr(Stdio::null());
        with_signals(&mut command).spawn().unwrap()
    }

    /// Names of temporary files and directories, at the output's place and in it.
    fn half_written(&self) -> Vec<String> {
        let places = [self.output.parent().unwrap(), &self.output];
        let entries = places.into_iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.contains(".tmp-")).collect()
    }

    fn clear(&self) {
        if self.input.is_some() {
            let _ = fs::remove_file(self.output.join("lora_model.onnx"));
        } else {
            let _ = fs::remove_dir_all(self.output.parent().unwrap());
        }
    }

    /// What an interrupted tool leaves: nothing that it began. Says whether the program itself ended it, and did not die
    /// of the signal before it was ready for one.
    fn check(&self, status: ExitStatus, signal: Signal) -> bool {
        assert_eq!(self.half_written(), Vec::<String>::new(), "{} {signal}", self.name);
        if status.success() {
            return false;
        }
        if status.signal() != Some(signal as i32) {
            assert_eq!(status.code(), Some(128 + signal as i32), "{} {signal}", self.name);
        }
        // The signal may come when all is done. process-lora gives its two files their names one by one.
        let has_config = self.output.join("config.json").is_file();
        let is_whole = has_config || self.name == "process-lora" && self.output.is_dir();
        let made = self.output.parent().unwrap();
        assert!(is_whole || !made.exists(), "{} {signal} left {}", self.name, made.display());
        status.signal().is_none()
    }

    /// Signals after longer and longer delays, until the tool is done before one. Returns how often it was interrupted
    /// while it worked.
    fn interrupt_later_and_later(&self, mut delay: Duration) -> usize {
        let mut n_ended = 0;
        for signal in [Signal::SIGINT, Signal::SIGTERM].into_iter().cycle() {
            self.clear();
            let mut child = self.start();
            std::thread::sleep(delay);
            interrupt(&child, signal);
            let status = child.wait().unwrap();
            n_ended += usize::from(self.check(status, signal));
            if status.success() {
                break;
            }
            delay = delay.mul_f32(1.3);
        }
        n_ended
    }
}

/// The first delays of sweeps.
const FIRST_DELAYS_MS: [u64; 8] = [2, 3, 4, 5, 6, 7, 8, 9];

/// Tests that run in the background inherit that Ctrl-C is ignored.
fn with_signals(command: &mut Command) -> &mut Command {
    let reset = || {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            // SAFETY: the default handler; the call may be made between fork and exec.
            unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
        }
        Ok(())
    };
    // SAFETY: it calls nothing but signal(2).
    unsafe { command.pre_exec(reset) }
}

fn interrupt(child: &Child, signal: Signal) {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
}

#[test]
fn tools_leave_nothing_half_written_whenever_they_are_interrupted() {
    let scratch = tempfile::tempdir().unwrap();
    for tool in tools(scratch.path()) {
        let mut n_ended = 0;
        // A quick tool may be done before the second signal of a sweep, on a busy machine more often than not.
        for start in FIRST_DELAYS_MS {
            n_ended += tool.interrupt_later_and_later(Duration::from_millis(start));
            if n_ended >= 2 {
                break;
            }
        }
        assert!(n_ended >= 2, "{}: {n_ended} were interrupted while they worked", tool.name);
    }
}

/// In the middle of writing, for certain.
#[test]
fn what_is_half_written_goes_away() {
    let scratch = tempfile::tempdir().unwrap();
    let staged = ["build", "quantize-llm", "merge-lora", "export-llm"];
    for tool in tools(scratch.path()).iter().filter(|tool| staged.contains(&tool.name)) {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            tool.clear();
            let mut child = tool.start();
            let begin = Instant::now();
            while tool.half_written().is_empty() {
                assert!(begin.elapsed() < Duration::from_secs(120), "{} writes nothing", tool.name);
                assert_eq!(child.try_wait().unwrap(), None, "{} was too quick", tool.name);
            }
            interrupt(&child, signal);
            let status = child.wait().unwrap();
            assert!(tool.check(status, signal), "{} {signal}: {status}", tool.name);
        }
    }
}

/// Requests whose answers differ: adapters, none, one that is not there, and random numbers of their own.
fn requests(n: usize) -> Value {
    let lora = [json!("french"), Value::Null, json!("klingon"), json!("german")];
    let requests: Vec<Value> = (0..n)
        .map(|i| {
            let content = format!("Say \"{i}\" in French: \u{e9} [{{,");
            json!({"messages": [{"role": "user", "content": content}], "lora_name": lora[i % lora.len()],
                "sampling_seed": i, "id": i, "num_logprobs": i % 2})
        })
        .collect();
    let adapters: serde_json::Map<String, Value> = ["french", "german"]
        .map(|name| {
            let path = demo().join("adapters").join(name).join("processed_adapter_model.safetensors");
            (name.to_owned(), json!(path))
        })
        .into_iter()
        .collect();
    json!({"temperature": 1.0, "max_generate_length": 60, "batch_size": 4, "logit_bias": {"4095": -100, "4093": -100},
        "available_lora_weights": adapters, "unknown_field": 1, "requests": requests})
}

struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command =
            jetspool(&["run", "--device", "cpu", "--threads", "1", "--contextCacheMaxRecords", "0"]);
        command.arg("--engineDir").arg(demo().join("engine"));
        command.arg("--inputFile").arg(self.path("in.json")).arg("--outputFile").arg(self.path("out.json"));
        command.args(more).stdout(Stdio::null());
        command
    }

    fn output(&self) -> Vec<u8> {
        fs::read(self.path("out.json")).unwrap()
    }

    fn n_cancelled(&self) -> usize {
        let output: Value = serde_json::from_slice(&self.output()).unwrap();
        let answers = output["responses"].as_array().unwrap();
        answers.iter().filter(|answer| answer["error"]["code"] == "cancelled").count()
    }
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bytes() {
    let run = Run { folder: tempfile::tempdir().unwrap() };
    fs::write(run.path("in.json"), requests(60).to_string()).unwrap();
    let begin = Instant::now();
    assert_eq!(run.command(&[]).status().unwrap().code(), Some(65), "klingon is no adapter");
    let (whole, time) = (run.output(), begin.elapsed());
    fs::remove_file(run.path("out.json")).unwrap();
    let mut n_left = Vec::new();
    for _ in 0..2 {
        let mut child = with_signals(&mut run.command(&["--resume"])).spawn().unwrap();
        std::thread::sleep(time.mul_f32(0.2));
        interrupt(&child, Signal::SIGINT);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        n_left.push(run.n_cancelled());
    }
    // How far it came depends on the machine.
    assert!(0 < n_left[1] && n_left[1] <= n_left[0], "{n_left:?}");
    assert_eq!(run.command(&["--resume"]).status().unwrap().code(), Some(65));
    assert!(run.output() == whole, "{}", String::from_utf8_lossy(&run.output()));
    // And once more, with nothing left to do.
    assert_eq!(run.command(&["--resume"]).status().unwrap().code(), Some(65));
    assert!(run.output() == whole);
}

#[test]
fn a_run_goes_on_with_its_own_output_only() {
    let run = Run { folder: tempfile::tempdir().unwrap() };
    let file = requests(6);
    fs::write(run.path("in.json"), file.to_string()).unwrap();
    assert_eq!(run.command(&[]).status().unwrap().code(), Some(65));
    let whole = run.output();
    let changed = |pointer: &str, value: Value| {
        let mut file = file.clone();
        *file.pointer_mut(pointer).unwrap() = value;
        file
    };
    let mut fewer = file.clone();
    fewer["requests"].as_array_mut().unwrap().pop();
    let others = [
        (changed("/requests/3/messages/0/content", json!("else")), "messages"),
        (changed("/requests/0/lora_name", json!("german")), "lora_name"),
        (changed("/requests/5/id", json!("x")), "id"),
        (changed("/batch_size", json!(3)), "batch_idx"),
        (fewer, "6 answers to 5 requests"),
    ];
    for (file, word) in others {
        fs::write(run.path("in.json"), file.to_string()).unwrap();
        let refused = run.command(&["--resume"]).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(65) && said.contains(word), "{word}: {said}");
        assert!(run.output() == whole, "{word}");
    }
    fs::write(run.path("in.json"), file.to_string()).unwrap();
    for broken in [&b"{}"[..], b"no json", b"{\"responses\": [1, 2, 3, 4, 5, 6]}", &whole[..whole.len() / 2]]
    {
        fs::write(run.path("out.json"), broken).unwrap();
        let refused = run.command(&["--resume"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(65), "{}", String::from_utf8_lossy(&refused.stderr));
        assert!(run.output() == broken);
    }
}
