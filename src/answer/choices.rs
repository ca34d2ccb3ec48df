//! Several answers to one request (`n` of batch files): each is computed by itself, and they go out together.

use std::collections::{BTreeMap, HashMap};

use super::ticket::Ticket;
use crate::spool::wire::Answer;

/// One of the answers.
pub struct Choice {
    pub ticket: Ticket,
    pub choice_idx: usize,
    pub answer: Answer,
}

/// Answers that wait for others of their request.
#[derive(Default)]
pub struct Choices(HashMap<Ticket, BTreeMap<usize, Answer>>);

impl Choices {
    /// Takes one; gives the whole answer with the last of a request. A request of which one choice failed has failed.
    pub fn take(&mut self, choice: Choice) -> Option<(Ticket, Answer)> {
        let Choice { ticket, choice_idx, answer } = choice;
        let n_choices = answer.line.as_ref().map_or(1, |line| line.n_choices);
        if n_choices == 1 {
            return Some((ticket, answer));
        }
        let finished = self.0.entry(ticket).or_default();
        finished.insert(choice_idx, answer);
        if finished.len() < n_choices {
            return None;
        }
        let mut answers: Vec<Answer> = self.0.remove(&ticket)?.into_values().collect();
        let error = answers.iter_mut().find_map(|answer| answer.error.take());
        let choices = answers.split_off(1);
        let first = answers.pop()?;
        Some((ticket, Answer { error, choices, ..first }))
    }

    pub fn forget(&mut self, ticket: Ticket) {
        self.0.remove(&ticket);
    }

    pub fn forget_job(&mut self, job: u64) {
        self.0.retain(|ticket, _| ticket.job != job);
    }
}
