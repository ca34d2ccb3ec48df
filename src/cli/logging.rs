//! The log: text on stderr, in the form that its reader wants.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::{Event, Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use super::args::{Command, Invocation};
use crate::config::{LogLevel, LogReader, LogSettings};

/// Starts the log, and says which flags do nothing. A second call changes nothing.
pub fn start_logging(settings: LogSettings, invocation: &Invocation) {
    let level = if invocation.is_debug { settings.level.max(LogLevel::Debug) } else { settings.level };
    // tokenizers logs every step of every text, async_nats what the bridge says in its own words.
    let filter = Targets::new()
        .with_default(level_filter(level))
        .with_target("tokenizers", LevelFilter::WARN)
        .with_target("async_nats", LevelFilter::WARN);
    // Internal errors would be printed with eprintln!, which panics when stderr is a closed pipe.
    let format = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .log_internal_errors(false)
        .with_ansi(settings.reader == LogReader::Person && io::stderr().is_terminal());
    let format = format.fmt_fields(words_only());
    let registry = tracing_subscriber::registry().with(filter);
    if settings.reader == LogReader::Journal
        && let Some(journal) = journal()
    {
        let _ = tracing::subscriber::set_global_default(registry.with(journal));
        tell_notes(invocation);
        return;
    }
    // It fails only where a log was started before.
    let _ = match (settings.reader, &invocation.command) {
        (LogReader::Journal, _) => {
            tracing::subscriber::set_global_default(registry.with(format.event_format(Line::Journal)))
        }
        (LogReader::Person, Command::Serve(_)) => {
            tracing::subscriber::set_global_default(registry.with(format))
        }
        (LogReader::Person, _) => {
            tracing::subscriber::set_global_default(registry.with(format.event_format(Line::Tool)))
        }
    };
    tell_notes(invocation);
}

fn tell_notes(invocation: &Invocation) {
    for note in &invocation.notes {
        tracing::warn!("{note}");
    }
}

/// The journal's own protocol: each field of an event becomes one of the entry, in capitals. None where its
/// socket cannot be reached; then the lines go to stderr.
fn journal() -> Option<tracing_journald::Layer> {
    let levels = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
        ..PriorityMappings::new()
    };
    let layer = tracing_journald::layer().ok()?;
    Some(layer.with_field_prefix(None).with_priority_mappings(levels))
}

/// A line of text has the message alone: it names what the fields hold. It stays one line, whatever a file in
/// it is called: nobody writes lines into the log by a name.
fn words_only() -> impl for<'writer> FormatFields<'writer> {
    debug_fn(|writer, field, value| {
        if field.name() != "message" {
            return Ok(());
        }
        for c in format!("{value:?}").chars() {
            match c {
                _ if c.is_control() => write!(writer, "{}", c.escape_default())?,
                _ => write!(writer, "{c}")?,
            }
        }
        Ok(())
    })
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// How one event becomes one line, without a time.
#[derive(Debug, Clone, Copy)]
enum Line {
    /// `<4>text`: the journal takes the number as the priority (sd-daemon(3)).
    Journal,
    /// `jetspool: warning: text`
    Tool,
}

impl Line {
    fn start(self, level: Level) -> &'static str {
        match (self, level) {
            (Line::Journal, Level::ERROR) => "<3>",
            (Line::Journal, Level::WARN) => "<4>",
            (Line::Journal, Level::INFO) => "<6>",
            (Line::Journal, _) => "<7>",
            (Line::Tool, Level::WARN) => "jetspool: warning: ",
            (Line::Tool, Level::ERROR | Level::INFO) => "jetspool: ",
            (Line::Tool, Level::DEBUG) => "jetspool: debug: ",
            (Line::Tool, Level::TRACE) => "jetspool: trace: ",
        }
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(self.start(*event.metadata().level()))?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
