//! `fleet`, and what `submit --nats` has of its own: the fleet as people and producers meet it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use super::show::show;
use super::stop::Stop;
use super::table::{Align, Table};
use crate::config::{Config, DEFAULT_FILE};
use crate::count::Count;
use crate::fleet::{
    Access, Fleet, FleetError, JobKey, Model, NotAName, Priority, ProducerOptions, Seen, Told, add_adapter,
    list, produce,
};

/// A device that was not heard of for three heartbeats.
const SILENT_SECONDS: f64 = 30.0;
/// Adapters that a line shows.
const N_SHOWN: usize = 4;

const HELP: &str = "\
Asks the fleet's server: what each device said of itself last, and what waits for each model. Without --nats the \
server is that of [bridge] in the configuration.

Examples:
  jetspool fleet
  jetspool fleet --nats nats://queue.example:4222 --json
  jetspool fleet add-adapter adapters/french --nats nats://queue.example:4222";

const ADD_HELP: &str = "\
Prints what requests call the adapter: a value of available_lora_weights. The same files have the same name. Each \
device fetches it when a request first names it.

Examples:
  jetspool fleet add-adapter adapters/french --nats nats://queue.example:4222";

/// The way to the fleet's server.
#[derive(Debug, Args)]
pub struct AccessArgs {
    /// Servers of the fleet: nats://HOST:PORT or tls://HOST:PORT, several with commas.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    nats: Vec<String>,
    /// Credentials file.
    #[arg(long, value_name = "FILE", requires = "nats")]
    credentials: Option<PathBuf>,
    /// Certificate of the authority that signed the server's (PEM).
    #[arg(long = "tlsCa", value_name = "FILE", requires = "nats")]
    tls_ca: Option<PathBuf>,
    /// Certificate of this client (PEM).
    #[arg(long = "tlsCert", value_name = "FILE", requires_all = ["nats", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// Key of that certificate (PEM).
    #[arg(long = "tlsKey", value_name = "FILE", requires_all = ["nats", "tls_cert"])]
    tls_key: Option<PathBuf>,
}

impl AccessArgs {
    fn access(&self) -> Access {
        Access {
            servers: self.nats.clone(),
            credentials: self.credentials.clone(),
            tls_ca: self.tls_ca.clone(),
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
        }
    }
}

/// Show the devices of a fleet and what waits for them.
#[derive(Debug, Args)]
#[command(after_help = HELP, args_conflicts_with_subcommands = true)]
pub struct FleetArgs {
    #[command(subcommand)]
    command: Option<FleetCommand>,
    #[command(flatten)]
    access: AccessArgs,
    /// The configuration that names the server.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What else there is.
#[derive(Debug, Subcommand)]
enum FleetCommand {
    AddAdapter(AddAdapterArgs),
}

/// Send an adapter to the fleet.
#[derive(Debug, Args)]
#[command(after_help = ADD_HELP)]
struct AddAdapterArgs {
    /// A PEFT adapter, or what process-lora made of one.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    access: AccessArgs,
    /// The configuration that names the server.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

impl FleetArgs {
    /// Does what was asked for.
    ///
    /// # Errors
    /// [`Stop`] with what kept it from going on.
    pub fn run(&self) -> Result<(), Stop> {
        if let Some(FleetCommand::AddAdapter(args)) = &self.command {
            let access = access(&args.access, &args.config)?;
            return show(&add_adapter(&access, args.directory.clone())?);
        }
        let fleet = list(&access(&self.access, &self.config)?)?;
        if self.json {
            let text = serde_json::to_string_pretty(&fleet).expect("it has only texts and numbers");
            return show(&text);
        }
        show(&text(&fleet))
    }
}

fn access(args: &AccessArgs, config: &Path) -> Result<Access, Stop> {
    if args.nats.is_empty() { Ok(Access::of(&Config::read(config)?)) } else { Ok(args.access()) }
}

fn text(fleet: &Fleet) -> String {
    let mut devices = Table::new(&[
        ("device", Align::Left),
        ("model", Align::Left),
        ("state", Align::Left),
        ("jobs", Align::Right),
        ("answered", Align::Right),
        ("tokens/s", Align::Right),
        ("seen", Align::Right),
    ]);
    for seen in &fleet.devices {
        let Seen { heartbeat, seconds_ago } = seen;
        let state = if *seconds_ago > SILENT_SECONDS { "silent" } else { heartbeat.state.name() };
        let notes = heartbeat.trouble.clone().into_iter().chain(adapters(&heartbeat.adapters));
        let cells = vec![
            heartbeat.device.clone(),
            heartbeat.model.clone(),
            state.to_owned(),
            heartbeat.queue.fleet.to_string(),
            heartbeat.counts.answered.to_string(),
            format!("{:.0}", heartbeat.tokens_per_second),
            format!("{seconds_ago:.0} s ago"),
        ];
        devices.row(cells, notes.collect());
    }
    let mut queues = Table::new(&[
        ("queue", Align::Left),
        ("waiting", Align::Right),
        ("taken", Align::Right),
        ("taken again", Align::Right),
    ]);
    for queue in &fleet.queues {
        let counts =
            [queue.n_waiting.to_string(), queue.n_taken.to_string(), queue.n_redelivered.to_string()];
        queues.row([vec![format!("{} {}", queue.model, queue.priority)], counts.into()].concat(), Vec::new());
    }
    format!(
        "{}\n{}\n{} kept, {} given up, {} in the bucket",
        devices.text(),
        queues.text(),
        Count(fleet.n_answers, "answer"),
        Count(fleet.n_dead, "job"),
        Count(fleet.n_adapters, "adapter")
    )
}

/// The adapters of a device as a note. What a device says is data: only what can be a name is shown.
fn adapters(names: &[String]) -> Option<String> {
    let shown: Vec<String> =
        names.iter().take(N_SHOWN).map(|name| name.escape_default().take(24).collect()).collect();
    let more = names.len().saturating_sub(N_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!shown.is_empty()).then(|| format!("adapters: {}{more}", shown.join(", ")))
}

/// What `submit` takes for the fleet alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "For a fleet")]
pub struct ProducerArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// The model that answers; it may be left out where the fleet has only one.
    #[arg(long, value_name = "NAME", requires = "nats", value_parser = named(Model::new))]
    model: Option<Model>,
    /// Which jobs devices take first.
    #[arg(long, value_name = "PRIORITY", requires = "nats", value_parser = priorities())]
    priority: Option<Priority>,
    /// What the job is called; a job of the same id is answered once.
    #[arg(long, value_name = "ID", requires = "nats", value_parser = named(JobKey::new))]
    id: Option<JobKey>,
}

impl ProducerArgs {
    /// Whether a fleet was named.
    pub fn is_meant(&self) -> bool {
        !self.access.nats.is_empty()
    }

    /// Gives a job to the fleet: prints its id, or the answer where that is waited for.
    ///
    /// # Errors
    /// [`Stop`] with what kept it from going on, or what failed in the answer.
    pub fn submit(&self, file: PathBuf, wait: Option<Duration>) -> Result<(), Stop> {
        submit(&ProducerOptions {
            file,
            access: self.access.access(),
            model: self.model.clone(),
            priority: self.priority.unwrap_or(Priority::Normal),
            id: self.id.clone(),
            wait,
        })
    }
}

fn submit(options: &ProducerOptions) -> Result<(), Stop> {
    let is_waiting = options.wait.is_some();
    let mut shown = Ok(());
    let result = produce(options, |told| {
        let line = match told {
            Told::Answer(bytes) => {
                let mut out = std::io::stdout().lock();
                shown = Stop::of_output(out.write_all(bytes).and_then(|()| out.flush()));
                return;
            }
            Told::Queued { id } => id.to_string(),
            Told::Known { id } => format!("{id} (the server had a job of this id before)"),
        };
        if is_waiting {
            let _ = writeln!(std::io::stderr(), "waiting for the answer to {line}");
        } else {
            shown = show(&line);
        }
    });
    shown.and(result.map_err(Stop::from))
}

fn named<T: Clone + Send + Sync + 'static>(
    new: fn(&str) -> Result<T, NotAName>,
) -> impl TypedValueParser<Value = T> {
    clap::builder::StringValueParser::new().try_map(move |text| new(&text).map_err(FleetError::from))
}

fn priorities() -> impl TypedValueParser<Value = Priority> {
    PossibleValuesParser::new(Priority::ALL.map(Priority::name)).map(|name| {
        let meant = Priority::ALL.into_iter().find(|priority| priority.name() == name);
        meant.expect("the parser takes no other name")
    })
}
