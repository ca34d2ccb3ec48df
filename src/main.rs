//! argv to a room to an exit code.

use std::process::ExitCode;

use jetspool::cli::{self, Command, Invocation, Stop};
use jetspool::config::{Config, LogSettings};
use jetspool::operator::Action;
use jetspool::{answer, compress, daemon, doctor, operator, probe, tools};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()).and_then(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.tell(),
    }
}

fn work(invocation: Invocation) -> Result<(), Stop> {
    cli::start_logging(LogSettings::from_environment()?, &invocation);
    let _interruption = tools::Interruption::watch(invocation.command.output().as_deref());
    match &invocation.command {
        Command::Serve(args) => Ok(daemon::serve(&args.config, Config::read(&args.config)?)?),
        Command::Run(args) => Ok(answer::run(&args.options())?),
        Command::Ask(args) => Ok(answer::ask(&args.options())?),
        Command::TextWorker => Ok(answer::text_worker()?),
        Command::Build(args) => {
            let options = args.options();
            answer::check_source(&options.model_dir)?;
            cli::show_build(&match args.calibration() {
                Some(calibration) => compress::build_calibrated(&options, &calibration)?,
                None if args.is_onnx() => tools::build_onnx(&options)?,
                None if args.is_gguf() => tools::build_gguf(&options)?,
                None => tools::build(&options)?,
            })
        }
        Command::ProcessLora(args) => cli::show_process(&tools::process_lora(&args.options())?),
        Command::QuantizeLlm(args) => cli::show_quantize(&compress::quantize(&args.options())?),
        Command::MergeLora(args) => cli::show_merge(&tools::merge_lora(&args.options())?),
        Command::ExportLlm(args) => cli::show_export(&tools::export(&args.options())?),
        Command::InsertLora(args) => cli::show_insert(&tools::insert_lora(&args.options())?),
        #[cfg(feature = "fleet")]
        Command::Submit(args) if args.is_for_fleet() => args.give_to_fleet(),
        Command::Submit(args) => Ok(operator::submit(&args.options())?),
        Command::Status(args) => Ok(operator::status(&args.options())?),
        Command::Errors(args) => Ok(operator::errors(&args.options())?),
        Command::Hold(args) => Ok(operator::operate(&args.options(Action::Hold))?),
        Command::Release(args) => Ok(operator::operate(&args.options(Action::Release))?),
        Command::Requeue(args) => Ok(operator::operate(&args.options(Action::Requeue))?),
        Command::Delete(args) => Ok(operator::operate(&args.options(Action::Delete))?),
        Command::Flush(args) => Ok(operator::flush(args.spool())?),
        #[cfg(feature = "fleet")]
        Command::Bridge(args) => args.run(),
        #[cfg(feature = "fleet")]
        Command::Fleet(args) => args.run(),
        Command::Doctor(args) => args.show(&doctor::examine(&args.options(), cli::reading)),
        Command::List(args) => {
            let config = Config::find(args.config())?;
            let last_use =
                config.as_ref().map(|config| operator::last_use(&config.spool)).unwrap_or_default();
            args.show(tools::list(&tools::ListOptions {
                last_use,
                ..args.options(config, operator::serving)?
            }))
        }
        Command::Inspect(args) => cli::show(&tools::inspect(&args.path)?),
        Command::Logits(args) => Ok(probe::logits(&args.options())?),
        Command::Tune(args) => cli::show(&probe::tune(&args.options())?),
        Command::Bench(args) => cli::show_bench(args, &probe::bench(&args.options())?),
    }
}
