//! `ask`: one question, or a chat, at a terminal or through a pipe. The answer alone goes to standard output.

mod chat;
mod conversation;
mod interruption;
mod lines;
mod options;
mod question;
mod respondent;
mod setup;
mod voice;

pub use options::{AskOptions, AskSampling};
pub use question::ask;
