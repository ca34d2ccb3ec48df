//! Answers before anything is computed: with what the request says of itself, and why it is not run.

use crate::spool::wire::{Answer, BadRequest, Fault, FinishReason, Request};

/// The answer to a request that is not run.
pub fn refused(
    request_idx: usize,
    batch_size: usize,
    request: Result<Request, BadRequest>,
    fault: Fault,
) -> Answer {
    match request {
        Ok(request) => failed(begun(request_idx, batch_size, &request), fault),
        Err(bad) => Answer::failed(request_idx, batch_size, bad),
    }
}

/// An answer with what the request says of itself.
pub fn begun(request_idx: usize, batch_size: usize, request: &Request) -> Answer {
    Answer {
        id: request.id.clone(),
        lora_name: request.lora_name.clone(),
        loras: request.loras.clone(),
        messages: request.messages.clone(),
        line: request.line.clone(),
        warnings: request.warnings.clone(),
        ..Answer::empty(request_idx, batch_size)
    }
}

pub fn failed(answer: Answer, fault: Fault) -> Answer {
    Answer { error: Some(fault), finish_reason: FinishReason::Error, ..answer }
}
