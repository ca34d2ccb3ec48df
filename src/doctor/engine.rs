//! The engine and the adapters, opened by the code that `serve` opens them with; then their digests.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::access::closed;
use super::finding::{Finding, Verdict, word};
use super::unit::Unit;
use crate::answer::{
    AdapterPlaces, AnswerError, Bound, Covers, EngineOptions, Engines, TooLittle, mib, open_engine,
};
use crate::config::Config;
use crate::format::EngineConfig;
use crate::spool::status::{Daemon, daemon};
use crate::store::adapter_files::{PEFT_WEIGHTS_FILE, PROCESSED_WEIGHTS_FILE};
use crate::store::digest::sha256_of_file;
use crate::store::engine::{CONFIG_FILE, WEIGHTS_FILE};
use crate::store::read_small;

/// Hexadecimal digits of a digest that are shown: enough to compare two machines by eye.
const SHOWN_DIGITS: usize = 32;
/// Recommended above the least that an engine needs: room for more than one sequence.
const SPARE_MIB: u64 = 16;

pub fn examine(
    config: &Config,
    config_path: &Path,
    unit: Option<&Unit>,
    progress: &mut dyn FnMut(&Path),
) -> Vec<Finding> {
    let mut findings = digests(&config.engine, progress);
    let is_damaged = findings.iter().any(|finding| finding.verdict == Verdict::Problem);
    match open_engine(&EngineOptions::from(config), 0) {
        Ok(engine) => {
            let engines = Engines::new(engine, AdapterPlaces::from(config));
            findings.push(opened(&engines, &config.engine));
            findings.push(memory(&engines, unit));
            findings.extend(adapters(config, &engines, progress));
        }
        Err(AnswerError::Memory { source, .. }) => findings.push(too_little(config, config_path, &source)),
        // A damaged file has been told.
        Err(_) if is_damaged => {}
        Err(error) => findings.push(refused(&error, &config.engine)),
    }
    findings
}

fn opened(engines: &Engines, directory: &Path) -> Finding {
    let engine = engines.current().engine();
    let limits = engine.limits();
    let found = format!(
        "{}: {}, batch of {}, rank up to {}; it computes",
        directory.display(),
        engine.precision().name(),
        limits.max_batch_size,
        limits.max_lora_rank,
    );
    Finding::ok("engine", found)
}

/// What `serve` would say, and what to do about it.
fn refused(error: &AnswerError, directory: &Path) -> Finding {
    let build = format!("jetspool build --modelDir CHECKPOINT --engineDir {}", word(directory));
    match error {
        AnswerError::Store(error) if let Some(path) = error.closed_path() => {
            let path = if path.starts_with(directory) { directory } else { path };
            closed("engine", path, "read")
        }
        AnswerError::System { .. } => Finding::problem("engine", error.to_string()).advice(
            "the system refuses threads or memory: look at the limits of the unit and of the machine",
        ),
        _ => Finding::problem("engine", error.to_string()).advice(build),
    }
}

/// The files of the engine against the digests that `build` wrote.
fn digests(directory: &Path, progress: &mut dyn FnMut(&Path)) -> Vec<Finding> {
    // What is missing or closed is told by opening it.
    let Ok(text) = read_small(&directory.join(CONFIG_FILE)) else { return Vec::new() };
    let Ok(config) = EngineConfig::from_json(&text) else { return Vec::new() };
    let advice = format!("jetspool build --modelDir CHECKPOINT --engineDir {}", word(directory));
    if config.sha256.is_empty() {
        let what = "it was built before digests were written: whether its files are damaged is not known";
        return vec![Finding::note("engine", what).advice(advice)];
    }
    let mut damaged = Vec::new();
    for (name, wanted) in &config.sha256 {
        let path = directory.join(name);
        progress(&path);
        match sha256_of_file(&path) {
            Ok(found) if found == *wanted => {}
            Ok(_) => damaged.push(name.clone()),
            Err(error) if error.is_not_found() => damaged.push(format!("{name} (missing)")),
            // Opening it tells why.
            Err(_) => return Vec::new(),
        }
    }
    if damaged.is_empty() {
        let digest = config.sha256.get(WEIGHTS_FILE).map_or("none", |digest| shown(digest));
        let what = format!(
            "its {} files are as they were built, sha256 of {WEIGHTS_FILE} {digest}",
            config.sha256.len()
        );
        return vec![Finding::ok("engine", what)];
    }
    let what = format!("{}: damaged since it was built: {}", directory.display(), damaged.join(", "));
    vec![Finding::problem("engine", what).advice(advice)]
}

fn shown(digest: &str) -> &str {
    digest.get(..SHOWN_DIGITS).unwrap_or(digest)
}

/// The limits of the unit, which do not bind this process.
fn memory(engines: &Engines, unit: Option<&Unit>) -> Finding {
    let engine = engines.current().engine();
    for (property, bytes) in unit.map(|unit| unit.memory_limits.as_slice()).unwrap_or_default() {
        let bound = Bound {
            name: format!("{property}="),
            room: *bytes,
            covers: Covers::Everything,
            is_setting: true,
        };
        if let (Err(error), Some(unit)) = (engine.need().kv_budget(vec![bound]), unit) {
            let command = format!("systemctl set-property {} {property}={}M", unit.name, enough_mib(&error));
            return Finding::problem("memory", error.to_string()).command(command);
        }
    }
    let kv = engines.current().kv_memory();
    let found = format!("weights {}, keys and values up to {}", mib(engine.need().weights), mib(kv.capacity));
    Finding::ok("memory", found)
}

fn enough_mib(error: &TooLittle) -> u64 {
    (error.needed() >> 20) + SPARE_MIB
}

fn too_little(config: &Config, config_path: &Path, error: &TooLittle) -> Finding {
    let text = error.to_string();
    if !error.is_lasting() {
        // A daemon that runs has taken its own share already.
        if matches!(daemon(&config.spool), Ok(Daemon::Running(_))) {
            return Finding::note("memory", format!("beside the running daemon: {text}"));
        }
        let advice = "end what else takes memory; a desktop takes 1 GiB";
        return Finding::problem("memory", text).advice(advice);
    }
    if config.memory_mib > 0 {
        let (enough, file) = (enough_mib(error), word(config_path));
        return Finding::problem("memory", text)
            .command(format!("sed -i 's/^memory_mib *=.*/memory_mib = {enough}/' {file}"));
    }
    Finding::problem("memory", text).advice("raise that limit")
}

/// One finding for those that fit, and one for each that does not.
fn adapters(config: &Config, engines: &Engines, progress: &mut dyn FnMut(&Path)) -> Vec<Finding> {
    let Some(directory) = &config.adapters else {
        return vec![Finding::ok("adapters", "no directory is configured: requests name paths, or use none")];
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return vec![closed("adapters", directory, "read")];
        }
        Err(error) => {
            let what = format!("{}: {error}", directory.display());
            return vec![Finding::problem("adapters", what).command(format!("mkdir -p {}", word(directory)))];
        }
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let (mut fine, mut findings) = (Vec::new(), Vec::new());
    for path in paths {
        match adapter(&path, engines) {
            None => {}
            Some(Ok((name, file))) => {
                progress(&file);
                let digest = sha256_of_file(&file).unwrap_or_else(|error| error.to_string());
                fine.push(format!("{name} (sha256 {})", shown(&digest)));
            }
            Some(Err(finding)) => findings.push(finding),
        }
    }
    let found = if fine.is_empty() { "none".to_owned() } else { fine.join(", ") };
    findings.insert(0, Finding::ok("adapters", format!("{}: {found}", directory.display())));
    findings
}

/// An adapter's name and file, or what is wrong with it; none for what is no adapter at all.
fn adapter(path: &Path, engines: &Engines) -> Option<Result<(String, PathBuf), Finding>> {
    let file = if path.is_dir() { path.join(PROCESSED_WEIGHTS_FILE) } else { path.to_owned() };
    if std::fs::read_dir(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        return Some(Err(closed("adapters", path, "read")));
    }
    if path.is_dir() && !file.exists() {
        let what = format!("{} is not processed", path.display());
        let command = format!("jetspool process-lora --input_dir {0} --output_dir {0}", word(path));
        let is_raw = path.join(PEFT_WEIGHTS_FILE).exists();
        return is_raw.then(|| Err(Finding::problem("adapters", what).command(command)));
    }
    let is_file = path.extension().is_some_and(|extension| extension == "safetensors");
    if !path.is_dir() && !is_file {
        return None;
    }
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    if std::fs::File::open(&file).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        return Some(Err(closed("adapters", path, "read")));
    }
    Some(engines.current().try_adapter(&name).map(|()| (name, file)).map_err(|fault| {
        Finding::problem("adapters", fault.message).advice(
            "process it anew with process-lora, or build the engine of its model with a larger --maxLoraRank",
        )
    }))
}
