//! `doctor`: what is wrong with this machine, and what to do about it.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;

use super::show::show;
use super::stop::Stop;
use crate::config::{DEFAULT_FILE, may_colour};
use crate::count::Count;
use crate::doctor::{DoctorOptions, Finding, Fix, Verdict};
use crate::exit;

const DOCTOR_HELP: &str = "\
Looks at the driver, the device nodes, control groups, memory pressure, the clock, the unit, the \
configuration, the spool, the engine and the adapters, and reads engine and adapters as a whole for their \
digests. It changes nothing. As root it becomes the service's user for all that depends on rights, and opens \
engine and adapters as the daemon does. Each remedy is a command for root, or an advice in words. Ends with \
69 if there is a problem.

Examples:
  sudo jetspool doctor
  jetspool doctor --config /etc/jetspool/jetspool.toml --json";

/// Say what keeps the daemon from working, and what to do.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_HELP)]
pub struct DoctorArgs {
    /// The daemon's configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Look for /proc, /sys, /dev and /etc below this directory.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    system_root: PathBuf,
    /// Become this user first; what root's doctor runs as a child.
    #[arg(long, value_name = "USER", hide = true)]
    as_service_user: Option<String>,
}

impl DoctorArgs {
    /// The flags as the doctor's room takes them.
    pub fn options(&self) -> DoctorOptions {
        DoctorOptions {
            config: self.config.clone(),
            system_root: self.system_root.clone(),
            as_user: self.as_service_user.clone(),
        }
    }

    /// Shows the findings; fails if one is a problem.
    pub fn show(&self, findings: &[Finding]) -> Result<(), Stop> {
        let paints = std::io::stdout().is_terminal() && may_colour();
        if self.json {
            // Plain data: it cannot fail.
            show(&serde_json::to_string_pretty(findings).unwrap_or_default())?;
        } else {
            let lines: Vec<String> = findings.iter().map(|finding| line(finding, paints)).collect();
            show(&lines.join("\n"))?;
        }
        match findings.iter().filter(|finding| finding.verdict == Verdict::Problem).count() {
            0 => Ok(()),
            n => Err(Stop::new(
                exit::UNAVAILABLE,
                format!("{n} of {} to be looked at", Count(findings.len(), "finding")),
            )),
        }
    }
}

/// Tells on a terminal which file is being read.
pub fn reading(path: &std::path::Path) {
    if std::io::stderr().is_terminal() {
        eprintln!("reading {} ...", path.display());
    }
}

fn line(finding: &Finding, paints: bool) -> String {
    let (word, colour) = match finding.verdict {
        Verdict::Ok => ("ok", "32"),
        Verdict::Note => ("note", "33"),
        Verdict::Problem => ("PROBLEM", "31"),
    };
    let word = format!("{word:<8}");
    let word = if paints { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
    let fix = match &finding.fix {
        None => String::new(),
        Some(Fix::Command(command)) => format!("\n{:19}fix, as root: {command}", ""),
        Some(Fix::Advice(advice)) => format!("\n{:19}fix: {advice}", ""),
    };
    format!("{word} {:<9} {}{fix}", finding.topic, finding.found)
}
