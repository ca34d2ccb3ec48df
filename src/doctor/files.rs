//! The engine and the adapters: whether they open, fit each other and fit into memory; their digests.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::finding::Finding;
use crate::config::Config;
use crate::format::{Adapter, TensorFile};
use crate::store::engine::WEIGHTS_FILE;
use crate::store::{Engine, map_file};

const PROCESSED_FILE: &str = "processed_adapter_model.safetensors";
const RAW_FILE: &str = "adapter_model.safetensors";

pub fn examine(config: &Config, root: &Path, progress: &mut dyn FnMut(&Path)) -> Vec<Finding> {
    let directory = &config.engine;
    let engine = match Engine::open(directory) {
        Ok(engine) => engine,
        Err(error) => {
            let fix = format!("jetspool build --modelDir CHECKPOINT --engineDir {}", directory.display());
            return vec![Finding::problem("engine", error.to_string(), fix)];
        }
    };
    let weights = directory.join(WEIGHTS_FILE);
    let mut findings = vec![engine_finding(&engine, &weights, progress), memory(&weights, root)];
    findings.extend(adapters(config, &engine, progress));
    findings
}

fn engine_finding(engine: &Engine, weights: &Path, progress: &mut dyn FnMut(&Path)) -> Finding {
    let limits = &engine.config.limits;
    let found = format!(
        "{}: {}, batch of {}, rank up to {}, sha256 {}",
        weights.display(),
        engine.config.precision.name(),
        limits.max_batch_size,
        limits.max_lora_rank,
        digest(weights, progress)
    );
    if engine.tokenizer_json.is_none() {
        return Finding::problem(
            "engine",
            format!("{found}; it has no tokenizer"),
            "build it of a checkpoint with tokenizer.json",
        );
    }
    Finding::ok("engine", found)
}

fn memory(weights: &Path, root: &Path) -> Finding {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let kib = |key: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
        rest.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()
    };
    let (Some(total), Some(available)) = (kib("MemTotal:"), kib("MemAvailable:")) else {
        return Finding::note("memory", "/proc/meminfo cannot be read", "look with free -m");
    };
    let wanted = std::fs::metadata(weights).map_or(0, |found| found.len()) >> 10;
    let found = format!("weights {} MiB, available {} of {} MiB", wanted >> 10, available >> 10, total >> 10);
    let smaller = "build the engine with --precision int4 or int8, or of a smaller model";
    match () {
        () if wanted > total => Finding::problem("memory", found, smaller),
        () if wanted > available => {
            Finding::note("memory", found, "end what else takes memory; a desktop takes 1 GiB")
        }
        () => Finding::ok("memory", found),
    }
}

/// One finding for those that fit, and one for each that does not.
fn adapters(config: &Config, engine: &Engine, progress: &mut dyn FnMut(&Path)) -> Vec<Finding> {
    let Some(directory) = &config.adapters else {
        return vec![Finding::ok("adapters", "no directory is configured: requests name paths, or use none")];
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            let found = format!("{}: {error}", directory.display());
            return vec![Finding::problem("adapters", found, format!("mkdir {}", directory.display()))];
        }
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let (mut fine, mut findings) = (Vec::new(), Vec::new());
    for path in paths {
        match adapter(&path, engine) {
            None => {}
            Some(Ok((file, rank))) => {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                fine.push(format!("{name} (rank {rank}, sha256 {})", digest(&file, progress)));
            }
            Some(Err((found, fix))) => findings.push(Finding::problem("adapters", found, fix)),
        }
    }
    let found = if fine.is_empty() { "none".to_owned() } else { fine.join(", ") };
    findings.insert(0, Finding::ok("adapters", format!("{}: {found}", directory.display())));
    findings
}

/// An adapter's file and rank, or what is wrong with it and the remedy; none for what is no adapter at all.
fn adapter(path: &Path, engine: &Engine) -> Option<Result<(PathBuf, usize), (String, String)>> {
    let is_file = path.extension().is_some_and(|extension| extension == "safetensors");
    let file = if path.is_dir() { path.join(PROCESSED_FILE) } else { path.to_owned() };
    if path.is_dir() && !file.exists() {
        let raw = path.join(RAW_FILE);
        let fix = format!("jetspool process-lora --input_dir {0} --output_dir {0}", path.display());
        return raw.exists().then(|| Err((format!("{} is not processed", path.display()), fix)));
    }
    if !path.is_dir() && !is_file {
        return None;
    }
    let limits = &engine.config.limits;
    let opened = map_file(&file).map_err(|error| error.to_string()).and_then(|bytes| {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let tensors = TensorFile::parse(bytes).map_err(|error| wrong(&error))?;
        Adapter::bind(tensors, &engine.config.architecture, limits.max_lora_rank)
            .map_err(|error| wrong(&error))
    });
    Some(match opened {
        Ok(adapter) => Ok((file, adapter.max_rank())),
        Err(error) => {
            let fix = "process it anew with process-lora, or build the engine of its model with a larger --maxLoraRank";
            Err((error, fix.into()))
        }
    })
}

/// The first half of the digest: enough to compare two machines by eye.
fn digest(path: &Path, progress: &mut dyn FnMut(&Path)) -> String {
    progress(path);
    let mut hasher = Sha256::new();
    let copied = std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    match copied {
        Ok(_) => hasher.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(error) => error.to_string(),
    }
}
