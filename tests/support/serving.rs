//! The daemon on a spool of its own, with the demo engine, for tests that disturb it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cost;
use super::service::{build_demo, jetspool, process_demo, program, runner};

const PATIENCE: Duration = Duration::from_secs(120);
const ADAPTERS: [&str; 3] = ["french", "german", "medical"];

/// Whether the program runs on an emulated processor.
pub fn is_emulated() -> bool {
    runner().is_some()
}

/// A fresh folder on the disk that cargo builds on, not in memory.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// An engine of the demo model and its adapters, made once; anybody may read them.
pub fn demo() -> &'static Path {
    static DEMO: OnceLock<PathBuf> = OnceLock::new();
    DEMO.get_or_init(|| {
        let root = tempfile::tempdir().unwrap().keep();
        let sizes = ["--maxBatchSize", "8", "--maxInputLen", "256", "--maxKVCacheCapacity", "512"];
        build_demo(&root.join("engine"), "int8", &sizes);
        for name in ADAPTERS {
            process_demo(name, &root.join("adapters").join(name));
        }
        let readable = Command::new("chmod").args(["-R", "a+rX"]).arg(&root).status();
        assert!(readable.unwrap().success());
        root
    })
}

/// A job of `n_requests` over all adapters, none, and one that is not there.
pub fn job(n_requests: usize, max_generate_length: usize) -> Value {
    let lora = [json!("french"), Value::Null, json!("german"), json!("klingon"), json!("medical")];
    let requests: Vec<Value> = (0..n_requests)
        .map(|i| {
            let content = format!("Translate to French: number {i}");
            json!({"messages": [{"role": "user", "content": content}], "lora_name": lora[i % lora.len()]})
        })
        .collect();
    json!({"temperature": 0, "max_generate_length": max_generate_length, "requests": requests})
}

/// A spool, its configuration and what the daemons on it logged.
pub struct Bench {
    pub root: PathBuf,
}

impl Bench {
    /// `settings` are lines of the configuration.
    pub fn new(root: &Path, settings: &str) -> Self {
        Self::with_engine(root, &demo().join("engine"), settings)
    }

    /// The same with another engine.
    pub fn with_engine(root: &Path, engine: &Path, settings: &str) -> Self {
        let adapters = demo().join("adapters");
        let spool = root.join("spool");
        std::fs::create_dir_all(spool.join("new")).unwrap();
        let text = format!(
            "engine = {engine:?}\nspool = {spool:?}\nadapters = {adapters:?}\nthreads = 1\n{settings}"
        );
        std::fs::write(root.join("jetspool.toml"), text).unwrap();
        Self { root: root.to_owned() }
    }

    pub fn place(&self, name: &str) -> PathBuf {
        self.root.join("spool").join(name)
    }

    /// Puts a file in by rename.
    pub fn drop_in(&self, name: &str, text: &str) {
        let hidden = self.place("new").join(format!(".{name}"));
        std::fs::write(&hidden, text).unwrap();
        std::fs::rename(hidden, self.place("new").join(name)).unwrap();
    }

    /// The files of a place and their bytes, with the name of this spool and the cost of the answers taken out.
    pub fn files(&self, place: &str) -> BTreeMap<String, String> {
        let Ok(entries) = std::fs::read_dir(self.place(place)) else { return BTreeMap::new() };
        let root = self.root.to_str().unwrap();
        entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, cost::without_cost(&text.replace(root, "ROOT")))
            })
            .collect()
    }

    pub fn n_files(&self, place: &str) -> usize {
        std::fs::read_dir(self.place(place)).map_or(0, Iterator::count)
    }

    /// Whether a name is in a place.
    pub fn has(&self, place: &str, name: &[u8]) -> bool {
        self.place(place).join(OsStr::from_bytes(name)).symlink_metadata().is_ok()
    }

    /// The daemon, to be started; it logs each request that it starts to `log`.
    pub fn serve(&self, log: &str) -> Command {
        let file = std::fs::File::options().create(true).append(true).open(self.root.join(log)).unwrap();
        let mut command = jetspool(&["serve", "--config"]);
        command.arg(self.root.join("jetspool.toml")).env("JETSPOOL_LOG", "debug");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        command
    }

    pub fn start(&self, log: &str) -> Running {
        Running(self.serve(log).spawn().unwrap())
    }

    pub fn log(&self, log: &str) -> String {
        std::fs::read_to_string(self.root.join(log)).unwrap_or_default()
    }

    /// Waits for something that the daemon does.
    pub fn wait_for(&self, what: &str, check: impl FnMut() -> bool) {
        self.wait_up_to(PATIENCE, Duration::from_millis(2), what, check);
    }

    /// Waits for something that takes long, and looks seldom.
    pub fn wait_for_long(&self, what: &str, check: impl FnMut() -> bool) {
        self.wait_up_to(PATIENCE * 10, Duration::from_millis(100), what, check);
    }

    fn wait_up_to(&self, limit: Duration, pause: Duration, what: &str, mut check: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !check() {
            assert!(
                begin.elapsed() < limit,
                "no {what} in {limit:?} in {}: {}",
                self.root.display(),
                self.log("log")
            );
            std::thread::sleep(pause);
        }
    }
}

/// A daemon; killed when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The user and the group that own nothing.
pub const NOBODY: u32 = 65_534;

/// A spool and a program for a daemon that is a user of its own, as a service is. Only root can make one.
pub struct Installed {
    pub bench: Bench,
    program: PathBuf,
}

impl Installed {
    /// `folder` is one that everybody may go to.
    pub fn new(folder: &Path, settings: &str) -> Self {
        std::fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        let bench = Bench::new(folder, settings);
        for path in [folder.to_owned(), bench.place(""), bench.place("new")] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        std::fs::set_permissions(bench.place("new"), Permissions::from_mode(0o3770)).unwrap();
        // Where cargo builds, not everybody may go.
        let program = folder.join("jetspool");
        std::fs::copy(env!("CARGO_BIN_EXE_jetspool"), &program).unwrap();
        Self { bench, program }
    }

    /// The program run by a user with one group.
    pub fn command(&self, words: &[&str], user: u32, group: u32) -> Command {
        let mut command = program(&[], self.program.to_str().unwrap(), words);
        command.uid(user).gid(group);
        command
    }

    /// The daemon, when it is ready.
    pub fn start(&self) -> Running {
        let config = self.bench.root.join("jetspool.toml");
        let mut serve = self.command(&["serve", "--config", config.to_str().unwrap()], NOBODY, NOBODY);
        let log = std::fs::File::create(self.bench.root.join("log")).unwrap();
        let daemon = Running(serve.stdin(Stdio::null()).stderr(log).spawn().unwrap());
        self.bench.wait_for("a ready daemon", || self.bench.log("log").contains("ready: "));
        daemon
    }
}
