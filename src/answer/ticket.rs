//! What an answer is given back by.

/// Which job's which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub job: u64,
    pub request_idx: usize,
}
