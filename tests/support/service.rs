//! The program run as a user runs it, and a daemon of it on a spool of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{cost::value_without_cost, data, json as read_json};

const PATIENCE: Duration = Duration::from_secs(300);

/// The emulator that runs the program, where there is one.
pub fn runner() -> Option<String> {
    std::env::var("JETSPOOL_TEST_RUNNER").ok().filter(|runner| !runner.is_empty())
}

/// The program, under the emulator of `JETSPOOL_TEST_RUNNER` where there is one.
pub fn jetspool(arguments: &[&str]) -> Command {
    under(&[], arguments)
}

/// The program, started by other words in front of it.
pub fn under(prefix: &[&str], arguments: &[&str]) -> Command {
    program(prefix, env!("CARGO_BIN_EXE_jetspool"), arguments)
}

/// The same for a copy of the program.
pub fn program(prefix: &[&str], path: &str, arguments: &[&str]) -> Command {
    let runner = runner().unwrap_or_default();
    let mut words = prefix.iter().copied().chain(runner.split_whitespace()).chain([path]);
    let mut command = Command::new(words.next().expect("the program is always there"));
    command.args(words).args(arguments);
    for name in ["NOTIFY_SOCKET", "JETSPOOL_LOG", "MEMORY_PRESSURE_WRITE"] {
        command.env_remove(name);
    }
    command.env("MEMORY_PRESSURE_WATCH", "/dev/null");
    command
}

/// Runs a command that must succeed.
pub fn ok(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Builds an engine of the demo model.
pub fn build_demo(engine: &Path, precision: &str, more: &[&str]) {
    build_demo_with(engine, precision, more, |_| {});
}

/// The same with the command as wanted.
pub fn build_demo_with(engine: &Path, precision: &str, more: &[&str], change: impl FnOnce(&mut Command)) {
    let mut command = jetspool(&["build", "--precision", precision, "--maxLoraRank", "16"]);
    change(&mut command);
    command.arg("--modelDir").arg(data("demo/checkpoint")).arg("--engineDir").arg(engine);
    ok(command.args(more));
}

/// Processes an adapter of the demo model into `directory`; returns its file.
pub fn process_demo(name: &str, directory: &Path) -> PathBuf {
    let mut command = jetspool(&["process-lora"]);
    command.arg("--input_dir").arg(data(&format!("demo/adapters/{name}")));
    ok(command.arg("--output_dir").arg(directory));
    directory.join("processed_adapter_model.safetensors")
}

/// A request that generates exactly `length` tokens: the end is never chosen.
pub fn long_request(content: &str, lora_name: Option<&str>, length: usize) -> Value {
    json!({
        "messages": [{"role": "user", "content": content}],
        "lora_name": lora_name,
        "max_generate_length": length,
        "logit_bias": {"4095": -100, "4093": -100},
        "num_logprobs": 1,
    })
}

/// A daemon; killed when dropped.
pub struct Service {
    pub child: Child,
    pub folder: PathBuf,
    pub spool: PathBuf,
}

impl Service {
    /// Starts `command serve` with these lines in the configuration, and waits until it is ready.
    pub fn start(folder: &Path, engine: &Path, lines: &str) -> Self {
        Self::start_by(&mut jetspool(&["serve"]), folder, engine, lines)
    }

    pub fn start_by(command: &mut Command, folder: &Path, engine: &Path, lines: &str) -> Self {
        let spool = folder.join("spool");
        configure(folder, engine, lines);
        let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        command.arg("--config").arg(folder.join("jetspool.toml")).stdout(Stdio::null()).stderr(log);
        let mut service = Self { child: command.spawn().unwrap(), folder: folder.to_owned(), spool };
        service.wait_for_log("ready: ");
        service
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn drop_in(&self, name: &str, requests: &[Value]) {
        let hidden = self.spool.join(format!("new/.{name}"));
        let file = json!({"temperature": 0, "requests": requests});
        std::fs::write(&hidden, file.to_string()).unwrap();
        std::fs::rename(hidden, self.spool.join("new").join(name)).unwrap();
    }

    pub fn wait_for<T>(&mut self, what: &str, mut check: impl FnMut(&Self) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = check(self) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "no {what}, the daemon ended: {ended:?}; log: {}", self.log());
            assert!(begin.elapsed() < PATIENCE, "no {what} in {PATIENCE:?}; log: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn wait_for_log(&mut self, text: &str) {
        self.wait_for(text, |service| service.log().contains(text).then_some(()));
    }

    /// The answers to the requests of a file, without what they cost.
    pub fn answers(&mut self, name: &str) -> Value {
        let path = self.spool.join("out").join(name);
        let answer = self.wait_for(name, |_| path.exists().then(|| read_json(&path)));
        value_without_cost(&answer["responses"])
    }

    /// Drops requests and waits for their answers.
    pub fn ask(&mut self, name: &str, requests: &[Value]) -> Value {
        self.drop_in(name, requests);
        self.answers(name)
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// A file of /proc about the daemon.
    pub fn proc(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap()
    }

    /// Bytes of all pages of this kind (a key of smaps).
    pub fn memory(&self, key: &str) -> u64 {
        kib(&self.proc("smaps_rollup"), key)
    }

    /// Bytes that are mapped in of a file, by the end of its path.
    pub fn resident(&self, file: &str) -> u64 {
        let text = self.proc("smaps");
        // A mapping begins with its addresses, in lower case; its figures begin with a capital.
        let is_header = |line: &&str| !line.starts_with(|letter: char| letter.is_ascii_uppercase());
        let mut lines = text.lines().peekable();
        let mut total = 0;
        while let Some(header) = lines.next() {
            let mut figures = String::new();
            while let Some(line) = lines.next_if(|line| !is_header(line)) {
                figures += line;
                figures.push('\n');
            }
            if header.ends_with(file) {
                total += kib(&figures, "Rss");
            }
        }
        total
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the daemon's configuration.
pub fn configure(folder: &Path, engine: &Path, lines: &str) {
    let spool = folder.join("spool");
    let text = format!("engine = {engine:?}\nspool = {spool:?}\nsettle_ms = 50\nfsync = false\n{lines}\n");
    std::fs::write(folder.join("jetspool.toml"), text).unwrap();
}

fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}
