//! The commands, as the help lists them.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::ask::AskArgs;
use super::bench::BenchArgs;
#[cfg(feature = "fleet")]
use super::bridge::BridgeArgs;
use super::build::BuildArgs;
use super::doctor::DoctorArgs;
use super::export_llm::ExportArgs;
#[cfg(feature = "fleet")]
use super::fleet::FleetArgs;
use super::insert_lora::InsertArgs;
use super::inspect::InspectArgs;
use super::list::ListArgs;
use super::logits::LogitsArgs;
use super::merge_lora::MergeLoraArgs;
use super::operate::{self, FlushArgs, JobsArgs, NamedJobsArgs};
use super::process_lora::ProcessLoraArgs;
use super::quantize_llm::QuantizeArgs;
use super::run::RunArgs;
use super::serve::ServeArgs;
use super::spool::{ErrorsArgs, StatusArgs, SubmitArgs};
use super::tune::TuneArgs;

/// The end of every help.
pub const EXIT_CODES: &str = "\
Exit codes: 0 done; 64 wrong usage; 65 wrong data in a file, or some requests failed; 66 no such input; \
69 not available; 70 fault of the program; 71 the system refused; 73 cannot create the output; 74 cannot \
read or write; 75 try again later; 77 not allowed; 78 wrong configuration; \
130 or 143 interrupted by Ctrl-C or SIGTERM.
JETSPOOL_LOG=error|warn|info|debug|trace sets how much is logged to stderr.";

/// Answer files of LLM requests, each with its LoRA adapter, on the machine itself.
#[derive(Debug, Parser)]
#[command(
    name = "jetspool",
    version,
    disable_help_subcommand = true,
    after_help = "\
The usual way: `process-lora` each adapter, `build` an engine, `ask` it a first question, then `run` one request \
file, or `serve` a spool: drop a JSON request file into one directory, find the JSON answer in another. `list` shows \
the engines and adapters at hand. `jetspool COMMAND --help` shows the flags of a command and examples. Every flag is \
taken in three spellings: --engineDir, --engine-dir, --engine_dir.

Examples:
  jetspool ask \"What is aspirin?\" --engineDir engine
  jetspool list
  jetspool run --engineDir engine --inputFile in.json --outputFile out.json
  jetspool submit request.json --wait"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Log more.
    #[arg(long, global = true, display_order = 900)]
    pub debug: bool,
}

/// A command with its flags.
#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(ServeArgs),
    Run(RunArgs),
    Ask(AskArgs),
    Build(BuildArgs),
    ProcessLora(ProcessLoraArgs),
    QuantizeLlm(QuantizeArgs),
    MergeLora(MergeLoraArgs),
    ExportLlm(ExportArgs),
    InsertLora(InsertArgs),
    Submit(SubmitArgs),
    Status(StatusArgs),
    Errors(ErrorsArgs),
    /// Set jobs aside, also while they run.
    #[command(after_help = operate::HOLD_HELP)]
    Hold(JobsArgs),
    /// Let held jobs go on.
    #[command(after_help = operate::RELEASE_HELP)]
    Release(JobsArgs),
    /// Run jobs again that were answered or failed.
    #[command(after_help = operate::REQUEUE_HELP)]
    Requeue(JobsArgs),
    /// Remove jobs that have no answer yet.
    #[command(after_help = operate::DELETE_HELP)]
    Delete(NamedJobsArgs),
    Flush(FlushArgs),
    #[cfg(feature = "fleet")]
    Bridge(BridgeArgs),
    #[cfg(feature = "fleet")]
    Fleet(FleetArgs),
    Doctor(DoctorArgs),
    List(ListArgs),
    Inspect(InspectArgs),
    Logits(LogitsArgs),
    Bench(BenchArgs),
    Tune(TuneArgs),
    /// The daemon's own helper; no command for people.
    #[command(skip)]
    TextWorker,
}

impl Command {
    /// The directory that a tool writes to, and must not leave half written.
    pub fn output(&self) -> Option<PathBuf> {
        match self {
            Self::Build(args) => Some(args.options().engine_dir),
            Self::ProcessLora(args) => Some(args.options().output_dir),
            Self::QuantizeLlm(args) => Some(args.options().output_dir),
            Self::MergeLora(args) => Some(args.options().output_dir),
            Self::ExportLlm(args) => Some(args.options().output_dir),
            Self::InsertLora(args) => Some(args.options().onnx_dir),
            _ => None,
        }
    }
}

/// A command line that was understood.
#[derive(Debug)]
pub struct Invocation {
    pub command: Command,
    /// Whether `--debug` stood there.
    pub is_debug: bool,
    /// Flags that were taken and do nothing, with the reason; for the log.
    pub notes: Vec<String>,
}
