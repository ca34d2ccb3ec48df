//! A real nats-server, devices on it (a spool, a daemon and a bridge each), and a client of the server.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, Context};
use nix::sys::signal::Signal;

use super::cost::without_cost;
use super::service::{jetspool, ok, under};
use super::serving::{Bench, demo};

/// The model of all devices here.
pub const MODEL: &str = "demo";
const PATIENCE: Duration = Duration::from_secs(60);

/// The program of the server, or none on a machine that cannot have one: then the test says so and passes.
pub fn server_program() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/nats-server");
        let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().into())
    });
    if found.is_none() {
        eprintln!("SKIPPED: there is no nats-server");
    }
    found.as_deref()
}

/// Waits for something, and looks often.
pub fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    wait_at_most(PATIENCE, what, &mut check)
}

pub fn wait_at_most<T>(limit: Duration, what: &str, check: &mut dyn FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(begin.elapsed() < limit, "no {what} in {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program that is killed when it is dropped, and when the thread that started it ends.
pub struct Process(pub Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        // SAFETY: prctl is a system call that takes numbers.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            })
        };
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server with its store, which outlives it.
pub struct Server {
    program: &'static Path,
    folder: PathBuf,
    pub port: u16,
    process: Option<Process>,
}

impl Server {
    /// Its files are kept in `folder`; `lines` are added to its configuration.
    pub fn start(folder: &Path, lines: &str) -> Option<Self> {
        Self::listening("127.0.0.1", folder, lines)
    }

    /// The same at another address, which 127.0.0.1 must reach too.
    pub fn listening(address: &str, folder: &Path, lines: &str) -> Option<Self> {
        let program = server_program()?;
        let folder = folder.join("server");
        std::fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let store = folder.join("store");
        // Written through: what was acknowledged is there after a SIGKILL of the server anyway; this costs little here.
        let text = format!(
            "listen: \"{address}:{port}\"\njetstream {{ store_dir: {store:?}, sync_interval: \"2s\" }}\n{lines}\n"
        );
        std::fs::write(folder.join("server.conf"), text).unwrap();
        let mut server = Self { program, folder, port, process: None };
        server.revive();
        Some(server)
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts it again, on the same store and port.
    pub fn revive(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = Command::new(self.program);
        command.arg("-c").arg(self.folder.join("server.conf")).stdout(Stdio::null()).stderr(log);
        self.process = Some(Process::start(&mut command));
        wait_for("server", || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            // It greets.
            stream.read_exact(&mut [0; 4]).ok()
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A spool with a daemon and a bridge.
pub struct Device {
    pub name: String,
    pub bench: Bench,
    pub daemon: Option<Process>,
    pub bridge: Option<Process>,
    /// Words before the bridge's own: where it runs.
    pub bridge_prefix: Vec<String>,
}

impl Device {
    /// Stopped. `lines` are added to the bridge's part of the configuration.
    pub fn new(folder: &Path, name: &str, url: &str, lines: &str) -> Self {
        let root = folder.join(name);
        std::fs::create_dir_all(&root).unwrap();
        let fetched = root.join("fetched");
        let roots = [demo().join("adapters"), fetched.clone()];
        let settings = format!(
            "allowed_roots = {roots:?}\nsettle_ms = 50\nfsync = false\n\
             [bridge]\nservers = [{url:?}]\nmodel = {MODEL:?}\ndevice = {name:?}\nadapters = {fetched:?}\n{lines}"
        );
        let bench = Bench::new(&root, &settings);
        // As the package makes it: the bridge may come before the daemon.
        std::fs::create_dir_all(bench.place("out")).unwrap();
        Self { name: name.into(), bench, daemon: None, bridge: None, bridge_prefix: Vec::new() }
    }

    /// Daemon and bridge, on a server that has what a fleet needs.
    pub fn started_and_made(folder: &Path, name: &str, url: &str, lines: &str) -> Self {
        let mut device = Self::new(folder, name, url, lines);
        device.init();
        device.start_daemon();
        device.start_bridge();
        device
    }

    pub fn config(&self) -> PathBuf {
        self.bench.root.join("jetspool.toml")
    }

    pub fn start_daemon(&mut self) {
        self.daemon = Some(Process::start(self.bench.serve("log").env("JETSPOOL_LOG", "info")));
    }

    pub fn start_bridge(&mut self) {
        let path = self.bench.root.join("bridge.log");
        let log = std::fs::File::options().create(true).append(true).open(path).unwrap();
        let prefix: Vec<&str> = self.bridge_prefix.iter().map(String::as_str).collect();
        let mut command = under(&prefix, &["bridge", "--config"]);
        command.arg(self.config()).env("JETSPOOL_LOG", "debug").stdout(Stdio::null()).stderr(log);
        self.bridge = Some(Process::start(&mut command));
    }

    pub fn logs(&self) -> String {
        format!("{}: daemon: {}\nbridge: {}", self.name, self.bench.log("log"), self.bench.log("bridge.log"))
    }

    /// `jetspool bridge init` and other words after `bridge`.
    pub fn bridge_command(&self, words: &[&str]) -> Command {
        let mut command = jetspool(&["bridge"]);
        command.args(words).arg("--config").arg(self.config());
        command
    }

    pub fn init(&self) -> Output {
        ok(&mut self.bridge_command(&["init"]))
    }

    /// Files of the bridge that are left in the spool.
    pub fn left_of_fleet(&self) -> Vec<String> {
        let places = ["new", "work", "out", "hold"];
        let names = places.iter().flat_map(|place| self.bench.files(place).into_keys());
        names.filter(|name| name.contains("fleet.")).collect()
    }
}

/// The id that the bridge makes of a producer's.
pub fn key_of(id: &str) -> String {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (1..=64).contains(&id.len()) && id.bytes().all(is_word) {
        return id.to_owned();
    }
    use sha2::Digest;
    let hex: String = sha2::Sha256::digest(id).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("x{}", &hex[..32])
}

/// An answer file without its own name and without what it cost: the same on every device.
pub fn neutral(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("\"input_file\":"));
    without_cost(&lines.collect::<Vec<_>>().join("\n"))
}

/// What a message said.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Said {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client of the server, of the library that others wrote.
pub struct Client {
    runtime: tokio::runtime::Runtime,
    pub context: Context,
}

impl Client {
    pub fn new(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let options = async_nats::ConnectOptions::new().retry_on_initial_connect().max_reconnects(None);
            let quickly = options.reconnect_delay_callback(|_| Duration::from_millis(100));
            quickly.request_timeout(Some(Duration::from_secs(2))).connect(url).await.unwrap()
        });
        // It starts a task.
        let mut context = runtime.block_on(async { jetstream::new(client) });
        context.set_timeout(Duration::from_secs(2));
        Self { runtime, context }
    }

    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Publishes until the server has it; the id keeps it one.
    pub fn publish(&self, subject: &str, headers: &[(&str, &str)], body: &[u8]) {
        wait_for("acknowledgement", || self.try_publish(subject, headers, body));
    }

    fn try_publish(&self, subject: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<()> {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        self.wait(async {
            let sent = self.context.publish_with_headers(subject.to_owned(), map, body.to_vec().into()).await;
            sent.ok()?.await.ok().map(drop)
        })
    }

    /// A job as producers give it.
    pub fn give(&self, priority: &str, id: &str, body: &str) {
        self.publish(&format!("JETSPOOL.jobs.{MODEL}.{priority}"), &[("Nats-Msg-Id", id)], body.as_bytes());
    }

    /// The last message of a subject; none while there is none, or while the server is away.
    pub fn last(&self, stream: &str, subject: &str) -> Option<Said> {
        self.wait(async {
            let stream = self.context.get_stream_no_info(stream).await.ok()?;
            let message = stream.direct_get_last_for_subject(subject).await.ok()?;
            let headers = message.headers.iter().map(|(name, values)| {
                let name: &str = name.as_ref();
                (name.to_owned(), values.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(" | "))
            });
            Some(Said { headers: headers.collect(), body: message.payload.to_vec() })
        })
    }

    /// The answer with its body, wherever that lies.
    pub fn answer(&self, id: &str) -> Option<Said> {
        let mut said = self.last("JETSPOOL_ANSWERS", &format!("JETSPOOL.answers.{MODEL}.{id}"))?;
        if let Some(name) = said.headers.get("Jetspool-Object") {
            said.body = self.object("JETSPOOL_answers", name)?;
        }
        Some(said)
    }

    pub fn wait_for_answer(&self, id: &str) -> Said {
        wait_for(&format!("answer to {id}"), || self.answer(id))
    }

    pub fn object(&self, bucket: &str, name: &str) -> Option<Vec<u8>> {
        use tokio::io::AsyncReadExt;
        self.wait(async {
            let bucket = self.context.get_object_store(bucket).await.ok()?;
            let mut bytes = Vec::new();
            bucket.get(name).await.ok()?.read_to_end(&mut bytes).await.ok()?;
            Some(bytes)
        })
    }

    pub fn put_object(&self, bucket: &str, name: &str, bytes: &[u8]) {
        self.wait(async {
            let bucket = self.context.get_object_store(bucket).await.unwrap();
            bucket.put(name, &mut &bytes[..]).await.unwrap();
        });
    }

    pub fn objects(&self, bucket: &str) -> Vec<String> {
        use futures_util::StreamExt;
        self.wait(async {
            let bucket = self.context.get_object_store(bucket).await.unwrap();
            let list = bucket.list().await.unwrap();
            list.map(|info| info.unwrap().name).collect().await
        })
    }

    /// Messages that a stream holds now; none while the server is away.
    pub fn n_messages(&self, stream: &str) -> Option<u64> {
        self.wait(async { Some(self.context.get_stream(stream).await.ok()?.cached_info().state.messages) })
    }

    /// Messages that a stream ever took.
    pub fn n_taken(&self, stream: &str) -> Option<u64> {
        self.wait(async {
            Some(self.context.get_stream(stream).await.ok()?.cached_info().state.last_sequence)
        })
    }

    /// Jobs of which nobody has said yet that they are done.
    pub fn wait_for_no_jobs(&self) {
        wait_for("empty queue", || (self.n_messages("JETSPOOL_JOBS") == Some(0)).then_some(()));
    }

    /// Ids of the answers, the first one first.
    pub fn answered_in_order(&self) -> Vec<String> {
        let stream = self.wait(self.context.get_stream("JETSPOOL_ANSWERS")).unwrap();
        let state = &stream.cached_info().state;
        let subject =
            |sequence| self.wait(stream.direct_get(sequence)).ok().map(|message| message.subject.to_string());
        let subjects = (state.first_sequence..=state.last_sequence).filter_map(subject);
        subjects.map(|subject| subject.rsplit('.').next().unwrap().to_owned()).collect()
    }

    /// As a device that is gone before it has done anything.
    pub fn take_and_give_back(&self, consumer: &str) {
        use async_nats::jetstream::{AckKind, consumer::PullConsumer};
        use futures_util::StreamExt;
        self.wait(async {
            let stream = self.context.get_stream("JETSPOOL_JOBS").await.unwrap();
            let consumer: PullConsumer = stream.get_consumer(consumer).await.unwrap();
            let mut batch = consumer.fetch().max_messages(1).messages().await.unwrap();
            batch.next().await.unwrap().unwrap().ack_with(AckKind::Nak(None)).await.unwrap();
            self.context.client().flush().await.unwrap();
        });
    }

    /// How long the queue waits for a sign of life of a device.
    pub fn set_ack_wait(&self, ack_wait: Duration) {
        use async_nats::jetstream::consumer::{FromConsumer, pull};
        self.wait(async {
            let stream = self.context.get_stream("JETSPOOL_JOBS").await.unwrap();
            for priority in ["high", "normal", "low"] {
                let info = stream.consumer_info(format!("{MODEL}-{priority}")).await.unwrap();
                let config = pull::Config::try_from_consumer_config(info.config).unwrap();
                stream.update_consumer(pull::Config { ack_wait, ..config }).await.unwrap();
            }
        });
    }
}
