//! `bridge`: a spool in a fleet.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::numbers::count;
use super::show::show;
use super::stop::Stop;
use crate::config::{Config, DEFAULT_FILE};
use crate::count::Count;
use crate::exit;
use crate::fleet::{
    Access, BridgeSettings, FleetError, Heartbeat, InitOptions, Layout, Made, Model, Seen, model, standing,
};

const HELP: &str = "\
Pulls jobs from the queue while the spool has few of them, drops them into new/, and publishes the answers of \
out/: one answer per job, whichever device gives it. Reads [bridge] of the daemon's configuration, and needs \
a running `jetspool serve`. SIGTERM gives back what was not begun.

Examples:
  jetspool bridge init
  jetspool bridge
  jetspool bridge status
  systemctl start jetspool-bridge";

const INIT_HELP: &str = "\
Makes the streams, buckets and consumers of the fleet that are not there, and says what it made. What is there \
stays as it is; one that is not as wanted is told, and makes the exit code 65.

Examples:
  jetspool bridge init
  jetspool bridge init --replicas 3 --keep-answers 30
  jetspool bridge init --model qwen3-4b --model qwen3-8b";

const STATUS_HELP: &str = "\
Asks the fleet's server for the latest heartbeat of this device; one comes every ten seconds. `jetspool fleet` shows \
all devices.

Examples:
  jetspool bridge status
  jetspool bridge status --json";

/// Join the spool to a queue on NATS JetStream: many devices, one queue.
#[derive(Debug, Args)]
#[command(after_help = HELP, args_conflicts_with_subcommands = true)]
pub struct BridgeArgs {
    #[command(subcommand)]
    command: Option<BridgeCommand>,
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

/// What else there is.
#[derive(Debug, Subcommand)]
enum BridgeCommand {
    Init(BridgeInitArgs),
    Status(BridgeStatusArgs),
}

/// Show what this device's bridge said of itself last.
#[derive(Debug, Args)]
#[command(after_help = STATUS_HELP)]
pub struct BridgeStatusArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Make the streams and consumers of the fleet on its server.
#[derive(Debug, Args)]
#[command(after_help = INIT_HELP)]
pub struct BridgeInitArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// A model whose jobs are queued; the configuration's if none is named. May be given several times.
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// Servers that hold each stream.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(1, 5))]
    replicas: usize,
    /// Days for which answers are kept.
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = count(1, 3650))]
    keep_answers: usize,
}

impl BridgeArgs {
    /// Does what was asked for.
    ///
    /// # Errors
    /// [`Stop`] with what kept it from going on.
    pub fn run(&self) -> Result<(), Stop> {
        match &self.command {
            Some(BridgeCommand::Init(args)) => args.run(),
            Some(BridgeCommand::Status(args)) => args.run(),
            None => Ok(crate::fleet::bridge(BridgeSettings::of(&Config::read(&self.config)?)?)?),
        }
    }
}

impl BridgeStatusArgs {
    fn run(&self) -> Result<(), Stop> {
        let settings = BridgeSettings::of(&Config::read(&self.config)?)?;
        let Some(seen) = standing(&settings)? else {
            let text = format!("the device {} was not heard of; is its bridge running?", settings.device);
            return Err(Stop::new(exit::UNAVAILABLE, text));
        };
        if self.json {
            return show(&serde_json::to_string_pretty(&seen).expect("it has only texts and numbers"));
        }
        let Seen { heartbeat, seconds_ago } = &seen;
        let Heartbeat { device, model, queue, counts, .. } = heartbeat;
        let mut lines = vec![
            format!("device    {device}, seen {seconds_ago:.0} s ago"),
            format!("model     {model}"),
            format!("state     {}", heartbeat.state.name()),
            format!(
                "jobs      {} here, {} pulled, {} given back",
                queue.fleet, counts.pulled, counts.given_back
            ),
            format!(
                "answers   {}, of them {} failed and {} refused; {} answered already",
                counts.answered,
                counts.failed,
                counts.refused,
                Count(counts.duplicates, "job")
            ),
            format!("adapters  {}", heartbeat.adapters.len()),
            format!("speed     {:.1} tokens/s", heartbeat.tokens_per_second),
        ];
        lines.extend(heartbeat.trouble.as_ref().map(|trouble| format!("trouble   {trouble}")));
        show(&lines.join("\n"))
    }
}

impl BridgeInitArgs {
    fn run(&self) -> Result<(), Stop> {
        let mut lines = Vec::new();
        let tell = |name: &str, made: &Made| lines.push(format!("{name}: {made}"));
        let result = crate::fleet::init(&self.options()?, tell);
        show(&lines.join("\n"))?;
        Ok(result?)
    }

    fn options(&self) -> Result<InitOptions, Stop> {
        let config = Config::read(&self.config)?;
        let mut models = Vec::new();
        for name in &self.model {
            models.push(Model::new(name).map_err(FleetError::from)?);
        }
        if models.is_empty() {
            models.push(model(&config)?);
        }
        let keep_answers = Duration::from_secs(86_400 * self.keep_answers as u64);
        let layout = Layout { n_replicas: self.replicas, keep_answers };
        Ok(InitOptions { access: Access::of(&config), models, layout })
    }
}
