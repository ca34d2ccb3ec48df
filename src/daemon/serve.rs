//! How the daemon starts: the spool, the engine, the threads, and then the loop.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::compute::Worker;
use super::control::{self, Rights};
use super::error::DaemonError;
use super::event::Events;
use super::link::Link;
use super::main_loop::{MainLoop, Parts, Threads};
use super::prepare::Lanes;
use super::progress::Progress;
use super::relief::Relief;
use super::scout::Scout;
use super::settings::{inbox_config, scan_every, spool_config, text_source, unload_after};
use super::writer::Writer;
use crate::answer::{AdapterPlaces, AnswerError, EngineOptions, Engines, open_engine};
use crate::config::{Config, ServiceSettings};
use crate::service::{Manager, Signals};
use crate::spool::{Inbox, NewDir, Place, Spool, Watch};

/// Opening the spool and the engine, and trying it, may take so long on a cold disk.
const LOADING: Duration = Duration::from_secs(300);
/// What was computed with is given back within this time, or left to the system.
const GIVING_BACK: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// What the runtime keeps of threads for blocking work: the lanes of texts, and a file that is read.
const MAX_BLOCKING_THREADS: usize = 8;
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Runs the daemon until SIGTERM.
///
/// # Errors
/// [`DaemonError`] when it cannot start, or when going on would harm the spool.
pub fn serve(config_path: &Path, config: Config) -> Result<(), DaemonError> {
    let signals = Signals::install().map_err(DaemonError::system("install signal handlers"))?;
    let mut manager = Manager::new(&ServiceSettings::from_environment());
    raise_descriptor_limit();
    manager.extend_timeout(LOADING);
    manager.status("opening the spool and the engine");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .build()
        .map_err(DaemonError::system("start the runtime"))?;
    let result = runtime.block_on(run(config_path, config, signals, manager));
    // Texts that are still worked on are nobody's any more.
    runtime.shutdown_background();
    result
}

/// Open jobs, mapped adapters and peers keep descriptors. The usual soft limit of 1024 protects programs that use
/// select(2), and this one does not.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!("the limit of open files stays: {}", error.desc());
    }
}

async fn run(
    config_path: &Path,
    config: Config,
    signals: Signals,
    manager: Manager,
) -> Result<(), DaemonError> {
    let (spool, recovery) = Spool::open(&config.spool, spool_config(&config))?;
    let engine = open_engine(&EngineOptions::from(&config), 0).map_err(configured)?;
    if let Some(directory) = config.adapters.as_ref().filter(|directory| !directory.is_dir()) {
        tracing::warn!("the adapters directory {} is not there (yet)", directory.display());
    }
    let (events, received) = Events::channel();
    // The watch first, then the scan: what arrives between the two is seen by both.
    let watch = Watch::new(&spool.path(Place::New))?;
    let new_dir = NewDir::open(&config.spool)?;
    let rights = rights(&spool)?;
    let listener =
        control::listen(&config.spool).map_err(DaemonError::system("listen for control requests"))?;
    tokio::spawn(control::serve(listener, rights, events.clone()));

    let scout = Scout::new(new_dir, Inbox::new(inbox_config(&config)), scan_every(&config), events.clone());
    let (scout, _) = start("jetspool-scout", |looks: Receiver<_>| scout.run(&looks))?;
    let writer = Writer::new(spool, events.clone());
    let (writer, _) = start("jetspool-writer", |commands: Receiver<_>| writer.run(&commands))?;
    let facts = engine.facts();
    let mut progress = Progress::default();
    progress.watch(engine.n_tasks());
    let engines = Engines::new(engine, AdapterPlaces::from(&config));
    let relief = Relief::new(unload_after(&config));
    let worker = Worker::new(engines, relief, events.clone());
    progress.watch(worker.n_turns());
    let state = worker.state();
    let (compute, computing) = start("jetspool-compute", |commands: Receiver<_>| worker.run(&commands))?;

    let threads = Threads { scout, writer, compute, progress };
    let lanes = Lanes::new(&text_source(&config, &facts)?, events.clone())
        .map_err(DaemonError::system("start a thread"))?;
    let main_loop = MainLoop::new(Parts {
        config_path: config_path.to_owned(),
        config,
        threads,
        events,
        manager,
        recovery,
        engine: facts,
        compute: state,
        lanes,
    });
    let result = main_loop.run(received, signals, watch).await;
    // The link to it is gone: it gives the device back and ends, unless the device does not answer.
    let given_up = tokio::time::Instant::now() + GIVING_BACK;
    while !computing.is_finished() && tokio::time::Instant::now() < given_up {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    result
}

/// Starts a thread that ends when its link goes; whoever wants to know when keeps its handle.
fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(Receiver<T>) + Send + 'static,
) -> Result<(Link<T>, JoinHandle<()>), DaemonError> {
    let (link, receiver) = Link::new();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(receiver));
    thread.map(|thread| (link, thread)).map_err(DaemonError::system("start a thread"))
}

/// Who may do what: this process's user, and the group of new/.
fn rights(spool: &Spool) -> Result<Rights, DaemonError> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(spool.path(Place::New)).map_err(DaemonError::system("look at new/"))?;
    Ok(Rights { own_user: nix::unistd::geteuid().as_raw(), group: found.gid() })
}

/// Why the engine that the configuration names cannot be used.
fn configured(source: AnswerError) -> DaemonError {
    if source.may_pass() { source.into() } else { DaemonError::ConfiguredEngine { source } }
}
