//! What was said so far. When it is longer than the engine takes, the oldest questions go first, each with its
//! answer; the system message stays.

use crate::spool::wire::{ContentPart, Message, Role};

/// Questions and answers, in order.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    system: Option<String>,
    turns: Vec<Turn>,
}

#[derive(Debug, Clone)]
struct Turn {
    question: String,
    answer: String,
}

impl Conversation {
    pub fn new(system: Option<String>) -> Self {
        Self { system, turns: Vec::new() }
    }

    /// All messages up to a new question.
    pub fn messages(&self, question: &str) -> Vec<Message> {
        let message = |role, text: &str| Message::new(role, vec![ContentPart::Text(text.to_owned())]);
        let system = self.system.iter().map(|text| message(Role::System, text));
        let turns = self
            .turns
            .iter()
            .flat_map(|turn| [message(Role::User, &turn.question), message(Role::Assistant, &turn.answer)]);
        system.chain(turns).chain([message(Role::User, question)]).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub fn keep(&mut self, question: &str, answer: &str) {
        self.turns.push(Turn { question: question.to_owned(), answer: answer.to_owned() });
    }

    /// Forgets the oldest question and its answer, if there is one.
    pub fn forget_oldest(&mut self) {
        if !self.turns.is_empty() {
            self.turns.remove(0);
        }
    }

    pub fn forget_all(&mut self) {
        self.turns.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_turns_are_forgotten_and_the_system_message_is_not() {
        let mut conversation = Conversation::new(Some("s".to_owned()));
        conversation.keep("q1", "a1");
        conversation.keep("q2", "a2");
        let texts = |conversation: &Conversation| {
            let messages = conversation.messages("q3");
            let words =
                messages.iter().map(|message| format!("{}:{}", message.role.as_str(), message.text()));
            words.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts(&conversation), "system:s user:q1 assistant:a1 user:q2 assistant:a2 user:q3");
        conversation.forget_oldest();
        assert_eq!(texts(&conversation), "system:s user:q2 assistant:a2 user:q3");
        conversation.forget_all();
        conversation.forget_oldest();
        assert_eq!(texts(&conversation), "system:s user:q3");
        assert!(conversation.is_empty());
    }
}
