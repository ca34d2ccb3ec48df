//! Stands in for the process until it is there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::prompter::{Prepared, PromptRequest};
use crate::spool::wire::Fault;

#[derive(Debug, Clone, Copy)]
pub struct TextLimits {
    pub time: Duration,
    pub memory: u64,
}

impl Default for TextLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(10), memory: 256 << 20 }
    }
}

pub struct TextProcess {
    directory: PathBuf,
    prompter: Option<super::engine::TextEngine>,
}

impl TextProcess {
    pub fn new(directory: &Path, _limits: TextLimits) -> Self {
        Self { directory: directory.to_owned(), prompter: None }
    }

    pub fn prepare(&mut self, request: &PromptRequest) -> Result<Prepared, Fault> {
        if self.prompter.is_none() {
            let options = super::EngineOptions {
                directory: self.directory.clone(),
                n_threads: 1,
                max_step_rows: 1,
                max_memory: None,
            };
            let mut engine = super::engine::TextEngine::open(&options, 0)
                .map_err(|e| Fault::new(crate::spool::wire::FaultCode::Internal, e.to_string()))?;
            engine
                .open_prompter(&self.directory)
                .map_err(|e| Fault::new(crate::spool::wire::FaultCode::Internal, e.to_string()))?;
            self.prompter = Some(engine);
        }
        self.prompter.as_ref().expect("made above").prepare(request)
    }

    pub fn check(&mut self) -> Result<(), super::error::AnswerError> {
        Ok(())
    }

    pub fn stop(&mut self) {
        self.prompter = None;
    }
}
