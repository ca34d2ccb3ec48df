//! A request of a file on its way to the engine: read, rendered, tokenized, or answered before it could run.

use std::sync::Arc;

use super::guides::Guides;
use super::prompter::{Prepared, PromptRequest};
use super::refused::refused;
use crate::infer::Guide;
use crate::spool::wire::{Answer, BadRequest, Fault, FaultCode, Request, RequestFile};

/// What was made of a request.
pub enum Ready {
    Run(Box<Runnable>),
    Answered(Box<Answer>),
}

/// A request that can run, with all that belongs to it.
pub struct Runnable {
    pub request: Request,
    pub prepared: Prepared,
    pub guide: Option<Box<dyn Guide>>,
    /// The file that it comes from.
    pub file: Arc<RequestFile>,
}

impl Ready {
    /// Lets `prepare` make tokens of the request at `index` of a file, and `guides` what its answer is to look like.
    /// `unix_time` is what its template may print as the date.
    pub fn new(
        request: Result<Request, BadRequest>,
        (file, index): (&Arc<RequestFile>, usize),
        unix_time: i64,
        guides: &Guides,
        prepare: impl FnOnce(&PromptRequest) -> Result<Prepared, Fault>,
    ) -> Self {
        let request = match request {
            Ok(request) => request,
            Err(bad) => return Self::Answered(Box::new(Answer::failed(index, file.batch_size, bad))),
        };
        let made = prepare(&PromptRequest::new(&request, unix_time)).and_then(|prepared| {
            let thinks = request.chat.enable_thinking;
            let guide = request.guide.as_ref();
            let guide =
                guide.map(|guide| guides.compile(guide, &prepared.prompt_text, thinks)).transpose()?;
            Ok((prepared, guide))
        });
        match made {
            Ok((prepared, guide)) => {
                Self::Run(Box::new(Runnable { request, prepared, guide, file: Arc::clone(file) }))
            }
            Err(fault) => Self::Answered(Box::new(refused(index, file.batch_size, Ok(request), fault))),
        }
    }

    /// The answer to a request that is not run for this reason.
    pub fn refused(file: &RequestFile, index: usize, fault: Fault) -> Self {
        Self::Answered(Box::new(refused(index, file.batch_size, file.request(index), fault)))
    }

    /// Whether the text took more than it was given.
    pub fn is_too_costly(&self) -> bool {
        let Self::Answered(answer) = self else { return false };
        answer.error.as_ref().is_some_and(|fault| fault.code == FaultCode::PromptTooCostly)
    }
}
