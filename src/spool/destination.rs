//! Where an input goes when its answer is out.

use super::place::Place;

/// The two ends of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Answered, if only with faults of single requests.
    Done,
    /// Rejected or given up.
    Failed,
}

impl Destination {
    pub const ALL: [Destination; 2] = [Destination::Done, Destination::Failed];

    pub fn place(self) -> Place {
        match self {
            Destination::Done => Place::Done,
            Destination::Failed => Place::Failed,
        }
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.place().name())
    }
}
