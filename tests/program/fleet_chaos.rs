//! Bridges, daemons and the server killed at random, and a device cut off: every job has one answer, the one that an
//! undisturbed device gives.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::fleet::{Client, Device, Server, free_port, neutral, wait_at_most, wait_for};
use crate::support::network::Network;
use crate::support::random::Random;
use crate::support::service::long_request;
use crate::support::serving::{Bench, folder, job};

/// How much is disturbed, and where.
struct Chaos {
    ways: Ways,
    n_jobs: usize,
    /// Between two kills.
    pause: Duration,
    limit: Duration,
    seed: u64,
}

/// How devices reach the server.
#[derive(Clone, Copy, PartialEq)]
enum Ways {
    /// Two of them directly; the third's connections are closed when it is cut off.
    Proxy,
    /// Each over a link of its own, on which packets are lost when it is cut off.
    Links,
}

/// What cuts devices off.
enum Cutter {
    Proxy(Proxy),
    Links(Network),
}

impl Cutter {
    fn to(server: &Server, network: Option<Network>) -> Self {
        network.map_or_else(|| Self::Proxy(Proxy::to(server.port)), Self::Links)
    }

    /// The server as a device sees it.
    fn url(&self, device: usize, server: &Server) -> String {
        match self {
            Self::Links(network) => format!("nats://{}:{}", network.machine(device).hub, server.port),
            Self::Proxy(proxy) if device == 2 => format!("nats://127.0.0.1:{}", proxy.port),
            Self::Proxy(_) => server.url(),
        }
    }

    fn prefix(&self, device: usize) -> Vec<String> {
        match self {
            Self::Links(network) => network.machine(device).prefix(),
            Self::Proxy(_) => Vec::new(),
        }
    }

    fn cut(&self, device: usize, is_cut: bool) {
        match self {
            Self::Links(network) => network.machine(device).cut(is_cut),
            Self::Proxy(proxy) => proxy.cut(is_cut),
        }
    }
}

/// A way to the server that can be cut.
struct Proxy {
    port: u16,
    is_cut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn to(server: u16) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let is_cut = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let proxy = Self { port, is_cut: is_cut.clone(), streams: streams.clone() };
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { break };
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let ends = [near.try_clone().unwrap(), far.try_clone().unwrap()];
                streams.lock().unwrap().extend(ends);
                for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
                {
                    std::thread::spawn(move || {
                        let mut buffer = [0; 16 << 10];
                        while let Ok(n) = from.read(&mut buffer) {
                            if n == 0 || to.write_all(&buffer[..n]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        proxy
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
        if is_cut {
            self.streams.lock().unwrap().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
    }
}

/// A job of its own, with adapters, errors and priorities.
fn chaos_job(i: usize) -> String {
    let mut job = job(1 + i % 4, 12);
    job["requests"][0]["messages"][0]["content"] = json!(format!("What is {i}?"));
    job.to_string()
}

/// What one device answers whom nobody disturbs, by id, without what it cost.
fn undisturbed(folder: &Path, jobs: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let root = folder.join("alone");
    std::fs::create_dir_all(&root).unwrap();
    let bench = Bench::new(&root, "fsync = false\n");
    let _daemon = bench.start("log");
    jobs.iter().for_each(|(id, text)| bench.drop_in(&format!("{id}.json"), text));
    bench.wait_for_long("undisturbed answers", || bench.n_files("out") == jobs.len());
    let answers = bench.files("out");
    answers
        .into_iter()
        .map(|(name, text)| (name.trim_end_matches(".json").to_owned(), neutral(&text)))
        .collect()
}

const N_DEVICES: usize = 3;

/// Kills what chance says, and starts it again after a while.
fn disturb(random: &mut Random, server: &mut Server, devices: &mut [Device], cutter: &Cutter) {
    let i = random.below(N_DEVICES);
    let device = &mut devices[i];
    match random.below(8) {
        0..=2 => {
            device.bridge = None;
            std::thread::sleep(Duration::from_millis(random.below(200) as u64));
            device.start_bridge();
        }
        3 | 4 => {
            device.daemon = None;
            std::thread::sleep(Duration::from_millis(random.below(200) as u64));
            device.start_daemon();
        }
        // A power cut.
        5 => {
            (device.bridge, device.daemon) = (None, None);
            device.start_daemon();
            device.start_bridge();
        }
        6 => {
            server.kill();
            std::thread::sleep(Duration::from_millis(random.below(300) as u64));
            server.revive();
        }
        _ => cutter.cut(i, random.below(2) == 0),
    }
}

fn run(chaos: &Chaos) {
    let folder = folder();
    let network = (chaos.ways == Ways::Links).then(|| Network::of(N_DEVICES));
    if matches!(network, Some(None)) {
        return;
    }
    // In a namespace of the test's own nobody else hears it.
    let address = if chaos.ways == Ways::Links { "0.0.0.0" } else { "127.0.0.1" };
    let Some(mut server) = Server::listening(address, folder.path(), "") else { return };
    let cutter = Cutter::to(&server, network.flatten());
    let jobs: BTreeMap<String, String> =
        (0..chaos.n_jobs).map(|i| (format!("job-{i}"), chaos_job(i))).collect();
    let wanted = undisturbed(folder.path(), &jobs);
    let mut devices: [Device; N_DEVICES] = std::array::from_fn(|i| {
        // Kills count as deliveries: no job is to be given up for them.
        let lines = "max_deliveries = 1000";
        let url = cutter.url(i, &server);
        let device = Device::new(folder.path(), &format!("device{i}"), &url, lines);
        Device { bridge_prefix: cutter.prefix(i), ..device }
    });
    devices[0].init();
    let client = Client::new(&server.url());
    // What died is given to others sooner than in earnest.
    client.set_ack_wait(Duration::from_secs(3));
    devices.iter_mut().for_each(|device| {
        device.start_daemon();
        device.start_bridge();
    });
    for (i, (id, text)) in jobs.iter().enumerate() {
        client.give(["high", "normal", "low"][i % 3], id, text);
    }
    let mut random = Random(chaos.seed);
    let n = chaos.n_jobs as u64;
    let begin = Instant::now();
    let mut n_kills = 0;
    while client.n_messages("JETSPOOL_ANSWERS").is_none_or(|found| found < n * 9 / 10) {
        assert!(begin.elapsed() < chaos.limit, "{:?} answers", client.n_messages("JETSPOOL_ANSWERS"));
        std::thread::sleep(chaos.pause);
        disturb(&mut random, &mut server, &mut devices, &cutter);
        n_kills += 1;
    }
    (0..N_DEVICES).for_each(|i| cutter.cut(i, false));
    let logs = |devices: &[Device]| devices.iter().map(Device::logs).collect::<String>();
    let answered = |client: &Client| (client.n_messages("JETSPOOL_ANSWERS")? == n).then_some(());
    wait_at_most(chaos.limit, &format!("all answers, seed {}", chaos.seed), &mut || answered(&client));
    wait_at_most(chaos.limit, "empty queue", &mut || {
        (client.n_messages("JETSPOOL_JOBS") == Some(0)).then_some(())
    });
    // The stream took each answer once, and none that was another one.
    assert_eq!(client.n_taken("JETSPOOL_ANSWERS"), Some(n));
    let mut by_device = BTreeMap::<String, usize>::new();
    for (id, wanted) in &wanted {
        let said = client.wait_for_answer(id);
        *by_device.entry(said.header("Jetspool-Device").to_owned()).or_default() += 1;
        assert_eq!(&neutral(&said.text()), wanted, "{id} of {}", said.header("Jetspool-Device"));
    }
    assert_eq!(client.n_messages("JETSPOOL_DEAD"), Some(0), "{}", logs(&devices));
    for device in &devices {
        wait_for("empty spool", || device.left_of_fleet().is_empty().then_some(()));
    }
    eprintln!("{n} answers after {n_kills} disturbances in {:?}, of {by_device:?}", begin.elapsed());
}

#[test]
fn every_job_has_one_answer_whatever_is_killed() {
    run(&Chaos {
        ways: Ways::Proxy,
        n_jobs: 60,
        pause: Duration::from_millis(150),
        limit: Duration::from_secs(120),
        seed: 1,
    });
}

#[test]
#[ignore = "long; scripts/check --full"]
fn a_thousand_jobs_have_one_answer_each_whatever_is_killed() {
    let (pause, limit) = (Duration::from_millis(150), Duration::from_secs(900));
    run(&Chaos { ways: Ways::Links, n_jobs: 1000, pause, limit, seed: 2 });
}

#[test]
fn a_device_that_is_cut_off_goes_on_and_publishes_when_it_is_back() {
    let folder = folder();
    let Some(server) = Server::start(folder.path(), "") else { return };
    let proxy = Proxy::to(server.port);
    let device =
        Device::started_and_made(folder.path(), "far", &format!("nats://127.0.0.1:{}", proxy.port), "");
    let client = Client::new(&server.url());
    let requests: Vec<Value> = vec![long_request("hi", None, 40); 4];
    client.give("normal", "far-job", &json!({"temperature": 0, "requests": requests}).to_string());
    wait_for("job in the spool", || (!device.left_of_fleet().is_empty()).then_some(()));
    proxy.cut(true);
    wait_for("answer in out/", || (device.bench.n_files("out") == 1).then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(client.n_messages("JETSPOOL_ANSWERS"), Some(0));
    proxy.cut(false);
    let said = client.wait_for_answer("far-job");
    assert_eq!(said.header("Jetspool-Device"), "far");
    client.wait_for_no_jobs();
    wait_for("empty spool", || device.left_of_fleet().is_empty().then_some(()));
}

#[test]
fn another_device_answers_for_one_behind_a_dead_link_and_the_late_answer_is_dropped() {
    let folder = folder();
    let Some(network) = Network::of(2) else { return };
    let Some(server) = Server::listening("0.0.0.0", folder.path(), "") else { return };
    let device = |name: &str, i: usize| {
        let machine = network.machine(i);
        let url = format!("nats://{}:{}", machine.hub, server.port);
        let mut device = Device::new(folder.path(), name, &url, "");
        device.bridge_prefix = machine.prefix();
        device
    };
    let (mut far, mut near) = (device("far", 0), device("near", 1));
    far.init();
    let client = Client::new(&server.url());
    client.set_ack_wait(Duration::from_secs(3));
    far.start_daemon();
    far.start_bridge();
    let requests: Vec<Value> = vec![long_request("hi", None, 40); 4];
    client.give("normal", "job", &json!({"temperature": 0, "requests": requests}).to_string());
    wait_for("job in the spool", || (!far.left_of_fleet().is_empty()).then_some(()));
    network.machine(0).cut(true);
    wait_for("answer in out/", || (far.bench.n_files("out") == 1).then_some(()));
    near.start_daemon();
    near.start_bridge();
    let said = client.wait_for_answer("job");
    assert_eq!(said.header("Jetspool-Device"), "near");
    client.wait_for_no_jobs();
    assert_eq!(far.bench.n_files("out"), 1, "{}", far.logs());
    network.machine(0).cut(false);
    wait_for("empty spool", || far.left_of_fleet().is_empty().then_some(()));
    assert_eq!(client.n_taken("JETSPOOL_ANSWERS"), Some(1));
    assert_eq!(client.answer("job"), Some(said));
}
