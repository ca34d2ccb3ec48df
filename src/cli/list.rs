//! `list`: the engines and adapters at hand.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::show::show;
use super::stop::Stop;
use super::table::{Align, Table, cut};
use crate::config::{Config, DEFAULT_FILE};
use crate::operator::{OperatorError, Serving};
use crate::tools::{AdapterEntry, Daemon, EngineEntry, ListOptions, Listing};

const HELP: &str = "\
Engines: that of the configuration, those beside it, and those that are named. Adapters: those of the adapters \
directory, each with the name that requests give it, and with the engines of this list that it fits. Nothing of it is \
read but what says this. `in use` counts the requests under way of the daemon that the configuration is for, `last use` \
is when it has answered the last one that names the adapter. `jetspool inspect PATH` shows one of them in depth.

Examples:
  jetspool list
  jetspool list --engineDir engine --loraDir processed
  jetspool list --json";

/// List engines and adapters, and which fit each other.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ListArgs {
    /// The configuration that names engine and adapters, where it is not /etc/jetspool/jetspool.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Another engine, or a directory of engines; may be given more than once.
    #[arg(long = "engineDir", value_name = "DIR", num_args = 1..)]
    engine_dirs: Vec<PathBuf>,
    /// Adapters directory instead of the configuration's.
    #[arg(long = "loraDir", value_name = "DIR")]
    lora_dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Where to look. `look` asks the daemon of a spool.
    ///
    /// # Errors
    /// [`Stop`] when nothing is named.
    pub fn options(
        &self,
        config: Option<Config>,
        look: impl FnOnce(&Path) -> Result<Option<Serving>, OperatorError>,
    ) -> Result<ListOptions, Stop> {
        if config.is_none() && self.engine_dirs.is_empty() && self.lora_dir.is_none() {
            let text = format!("there is no {DEFAULT_FILE}; give --engineDir, --loraDir or --config");
            return Err(Stop::of_wrong_usage(text));
        }
        let daemon = match config.as_ref().map(|config| look(&config.spool)) {
            None | Some(Err(_)) => Daemon::Unknown,
            Some(Ok(None)) => Daemon::Stopped,
            Some(Ok(Some(Serving { engine, adapters }))) => {
                Daemon::Serves { engine, n_requests: adapters.into_iter().collect() }
            }
        };
        let (configured, adapters) =
            config.map_or((None, None), |config| (Some(config.engine), config.adapters));
        let adapters = self.lora_dir.clone().or(adapters);
        let named = self.engine_dirs.clone();
        Ok(ListOptions { named, configured, adapters, daemon, ..ListOptions::default() })
    }

    /// Prints what was found.
    ///
    /// # Errors
    /// [`Stop`] with what is wrong with an engine that was named, or with the adapters directory.
    pub fn show(&self, listing: Listing) -> Result<(), Stop> {
        if self.json {
            // Plain data: it cannot fail.
            show(&serde_json::to_string_pretty(&listing).unwrap_or_default())?;
        } else {
            show(&text(&listing))?;
        }
        listing.fault.map_or(Ok(()), |fault| Err(fault.into()))
    }
}

fn text(listing: &Listing) -> String {
    let mut text = engines(&listing.engines);
    if let Some(directory) = &listing.adapters_directory {
        text.push_str(&format!("\nadapters in {}\n", clean(directory)));
        text.push_str(&adapters(&listing.adapters));
    }
    text
}

fn engines(entries: &[EngineEntry]) -> String {
    let mut table = Table::new(&[
        ("engine", Align::Left),
        ("family", Align::Left),
        ("weights", Align::Left),
        ("size", Align::Right),
        ("batch", Align::Right),
        ("input", Align::Right),
        ("KV", Align::Right),
        ("rank", Align::Right),
        ("served", Align::Left),
    ]);
    for entry in entries {
        let mut notes = vec![clean(&entry.path)];
        let mut cells = vec![clean(&entry.name)];
        if let Some(facts) = &entry.facts {
            cells.extend([facts.family.to_owned(), facts.precision.to_owned(), size(facts.n_bytes)]);
            cells.extend(
                [facts.max_batch_size, facts.max_input_len, facts.max_kv_cache_capacity, facts.max_lora_rank]
                    .map(|limit| limit.to_string()),
            );
        } else {
            cells.extend(["-"; 7].map(str::to_owned));
        }
        cells.push(entry.served.map_or("?", |is_served| if is_served { "yes" } else { "no" }).to_owned());
        notes.extend(entry.error.as_ref().map(|error| cut(&clean(error))));
        table.row(cells, notes);
    }
    if entries.is_empty() { "no engines\n".to_owned() } else { table.text() }
}

fn adapters(entries: &[AdapterEntry]) -> String {
    let mut table = Table::new(&[
        ("adapter", Align::Left),
        ("size", Align::Right),
        ("rank", Align::Right),
        ("in use", Align::Right),
        ("last use", Align::Right),
        ("projections", Align::Left),
    ]);
    for entry in entries {
        let rank = if entry.rank > 0 { entry.rank.to_string() } else { "-".to_owned() };
        let n_requests = entry.n_requests.map_or("?".to_owned(), |n_requests| n_requests.to_string());
        let targets: Vec<&str> = entry.targets.iter().map(|name| name.trim_end_matches("_proj")).collect();
        let targets = if targets.is_empty() { "-".to_owned() } else { targets.join(" ") };
        let mut notes = Vec::new();
        let fitting: Vec<String> =
            entry.engines.iter().filter(|fit| fit.why_not.is_none()).map(|fit| clean(&fit.engine)).collect();
        if !fitting.is_empty() {
            notes.push(format!("fits {}", fitting.join(", ")));
        }
        for fit in &entry.engines {
            let why_not = fit.why_not_in_short.as_ref();
            notes.extend(why_not.map(|why| cut(&format!("not {}: {}", clean(&fit.engine), clean(why)))));
        }
        notes.extend(entry.error.as_ref().map(|error| cut(&clean(error))));
        let last_use = entry.last_use.map_or("-".to_owned(), ago);
        table.row(vec![clean(&entry.name), size(entry.n_bytes), rank, n_requests, last_use, targets], notes);
    }
    if entries.is_empty() { "none\n".to_owned() } else { table.text() }
}

/// A name of a file without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// How long ago a time is, in its largest unit.
fn ago(time: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = now.saturating_sub(time);
    match seconds {
        0..60 => "just now".to_owned(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

fn size(n_bytes: u64) -> String {
    let n_bytes = n_bytes as f64;
    match n_bytes {
        ..999_950.0 => format!("{:.1} kB", n_bytes / 1e3),
        ..999_950_000.0 => format!("{:.1} MB", n_bytes / 1e6),
        _ => format!("{:.2} GB", n_bytes / 1e9),
    }
}
