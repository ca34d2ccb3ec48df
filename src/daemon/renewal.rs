//! What the loop does about a new configuration, a new engine, and one whose files broke.

use std::time::{Duration, Instant};

use super::compute::Compute;
use super::error::DaemonError;
use super::event::{Event, Renewal};
use super::main_loop::{Broken, MainLoop};
use super::message;
use super::prepare::Lanes;
use super::scout::Look;
use super::settings::{inbox_config, scan_every, spool_config, text_source, unload_after};
use super::writer::Write;
use crate::answer::{AdapterPlaces, AnswerError, Breakdown, EngineOptions, TextEngine, open_engine};
use crate::config::{Config, DeviceChoice};

/// A broken engine is tried again this often.
const RETRY_EVERY: Duration = Duration::from_secs(1);

impl MainLoop {
    /// Takes the configuration anew; a bad one changes nothing.
    pub(super) fn reload(&mut self) {
        self.manager.reloading();
        match Config::read(&self.config_path) {
            Ok(config) => {
                if config.spool != self.config.spool {
                    tracing::warn!("the spool is changed by a restart, not by a reload");
                }
                let config = Config { spool: self.config.spool.clone(), ..config };
                let old = std::mem::replace(&mut self.config, config);
                self.spread();
                let is_other = EngineOptions::from(&old) != EngineOptions::from(&self.config);
                if is_other || !self.engine.is_current() {
                    self.renew_engine(Renewal::Reload);
                } else {
                    self.reloaded();
                }
            }
            Err(error) => {
                let text = format!("{error}; the old configuration stays");
                self.tell_error(Some(message::RELOAD_REFUSED), text);
                self.manager.ready();
            }
        }
    }

    /// Tells everybody what the configuration says.
    fn spread(&mut self) {
        let threads = &mut self.threads;
        threads.writer.send(Write::Config(spool_config(&self.config)));
        threads.scout.send(Look::Config(inbox_config(&self.config), scan_every(&self.config)));
        threads.compute.send(Compute::Places(AdapterPlaces::from(&self.config)));
        threads.compute.send(Compute::UnloadAfter(unload_after(&self.config)));
        self.jobs.set_max_crashes(u32::try_from(self.config.max_attempts).unwrap_or(u32::MAX));
    }

    fn reloaded(&mut self) {
        tracing::info!(message_id = message::RELOADED, "configuration reloaded");
        self.is_news = true;
        self.manager.ready();
    }

    /// Opens the engine of the configuration beside the loop; [`Event::Opened`] brings it.
    pub(super) fn renew_engine(&mut self, why: Renewal) {
        self.is_renewing = true;
        let mut options = EngineOptions::from(&self.config);
        if self.is_gpu_lost || why == Renewal::Sleep {
            options.device = DeviceChoice::Cpu;
        }
        let kv = self.compute.kv;
        let promised = kv.reserved.saturating_sub(kv.in_use);
        let events = self.events.clone();
        tokio::spawn(async move {
            let opened = tokio::task::spawn_blocking(move || open_engine(&options, promised));
            let opened = opened.await.unwrap_or_else(|error| {
                Err(AnswerError::System { action: "open the engine", source: std::io::Error::other(error) })
            });
            events.send_async(Event::Opened(why, Box::new(opened))).await;
        });
    }

    pub(super) fn engine_opened(&mut self, why: Renewal, opened: Result<TextEngine, AnswerError>) {
        self.is_renewing = false;
        match opened {
            Ok(engine) => {
                self.is_asleep = why == Renewal::Sleep;
                self.take_engine(engine);
            }
            Err(error) if self.broken.is_some() => self.still_broken(&error),
            Err(error) => {
                // It is not tried again before the next job has ended.
                (self.is_asleep, self.compute.has_rested) = (false, false);
                self.tell_error(None, format!("the new engine cannot be used: {error}; the old one stays"));
            }
        }
        if why == Renewal::Reload {
            self.reloaded();
        }
    }

    fn take_engine(&mut self, engine: TextEngine) {
        self.broken = None;
        self.threads.progress.watch(engine.n_tasks());
        self.engine = engine.facts();
        let lanes = text_source(&self.config, &self.engine).and_then(|source| {
            let failed = DaemonError::system("start a thread");
            Lanes::new(&source, self.events.clone()).map_err(failed)
        });
        match lanes {
            Ok(lanes) => self.lanes = lanes,
            Err(error) => self.tell_error(None, error.to_string()),
        }
        self.threads.compute.send(Compute::Replace(Box::new(engine)));
    }

    /// The engine broke down: what was computed is thrown away, and computed anew by the engine that is there as soon
    /// as it can be opened, on the processor where the configuration leaves the choice. No request is blamed.
    ///
    /// Where only a GPU is wanted and it failed, the daemon ends as if it were asked to, and the system starts another
    /// one: the driver gives a process that met such a fault no second chance.
    pub(super) fn damaged(&mut self, damage: &Breakdown) {
        self.jobs.take_back();
        self.marking.clear();
        if self.broken.is_none() {
            self.tell_error(None, format!("{damage}; what was computed with it is thrown away"));
            self.broken = Some(Broken { why: damage.to_string(), retry: Instant::now() });
        }
        if let Breakdown::Device(fault) = damage {
            self.is_gpu_lost = true;
            if self.config.device == DeviceChoice::Cuda {
                self.is_ending = true;
                self.ends_with = Some(DaemonError::Device(fault.to_string()));
                return;
            }
        }
        self.mend_engine();
    }

    /// Gives the GPU's memory back when nobody has used it for long, and takes it again with the next job, which begins
    /// on the processor meanwhile: the answers are the same.
    pub(super) fn sleep_or_wake(&mut self) {
        if self.is_renewing || self.broken.is_some() {
            return;
        }
        if self.is_asleep && !self.jobs.is_empty() {
            self.renew_engine(Renewal::Wake);
        } else if self.compute.has_rested
            && self.engine.device == DeviceChoice::Cuda.name()
            && !self.is_busy()
        {
            self.renew_engine(Renewal::Sleep);
        }
    }

    fn still_broken(&mut self, error: &AnswerError) {
        let why = format!("the engine's files are broken, requests wait: {error}");
        let retry = Instant::now() + RETRY_EVERY;
        if self.broken.replace(Broken { why: why.clone(), retry }).is_some_and(|broken| broken.why != why) {
            self.tell_error(None, why);
        }
    }

    /// Opens a broken engine anew when it is time.
    pub(super) fn mend_engine(&mut self) {
        let is_due = self.broken.as_ref().is_some_and(|broken| Instant::now() >= broken.retry);
        if is_due && !self.is_renewing {
            self.renew_engine(Renewal::Damage);
        }
    }
}
