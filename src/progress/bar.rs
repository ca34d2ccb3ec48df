//! The bar of work that takes long: one form for every command. On anything but a terminal nothing is drawn.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

/// How often the time is drawn again while nothing is done.
const TICK: Duration = Duration::from_millis(500);

/// Whether a bar is drawn; on anything but a terminal it never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Bar,
    Quiet,
}

/// A bar on stderr; it goes away when it is dropped.
pub struct Bar(ProgressBar);

impl Bar {
    /// Counts bytes.
    pub fn of_bytes(progress: Progress, n_bytes: u64) -> Self {
        Self::new(progress, n_bytes, "{bytes}/{total_bytes}")
    }

    /// Counts `what`, as requests or steps.
    pub fn of(progress: Progress, n: u64, what: &str) -> Self {
        Self::new(progress, n, &format!("{{pos}}/{{len}} {what}"))
    }

    fn new(progress: Progress, n: u64, counts: &str) -> Self {
        if progress == Progress::Quiet {
            return Self(ProgressBar::hidden());
        }
        let template = format!("{{bar:30}} {counts}, {{elapsed}}{{left}} {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("left", |state: &ProgressState, out: &mut dyn Write| {
            let _ = out.write_str(&left(state.pos(), state.eta()));
        });
        let bar = ProgressBar::new(n).with_style(style);
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// So much more is done.
    pub fn add(&self, n: u64) {
        self.0.inc(n);
    }

    /// What is being done.
    pub fn say(&self, words: impl Into<Cow<'static, str>>) {
        self.0.set_message(words);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How long it will take; before anything is done nobody knows.
fn left(n_done: u64, eta: Duration) -> String {
    if n_done == 0 { String::new() } else { format!(" (eta {:#})", HumanDuration(eta)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_foretold_before_anything_is_done() {
        assert_eq!(left(0, Duration::ZERO), "");
        assert_eq!(left(1, Duration::from_secs(6)), " (eta 6s)");
    }
}
