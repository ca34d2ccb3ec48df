//! `ask`: who is asked, and what.

use std::io::{IsTerminal, Read};

use super::chat::chat;
use super::conversation::Conversation;
use super::interruption::Interruption;
use super::options::AskOptions;
use super::respondent::{Ending, NoReply, Reply, Respondent};
use super::setup::Setup;
use super::voice::Voice;
use crate::answer::error::AnswerError;

/// More than any prompt may have.
const MAX_QUESTION_BYTES: u64 = 1 << 20;

/// Answers one question; without one, that of standard input, or begins a chat where that is a terminal.
///
/// # Errors
/// [`AnswerError`]; [`AnswerError::Stopped`] after Ctrl-C.
pub fn ask(options: &AskOptions) -> Result<(), AnswerError> {
    let question = match &options.question {
        Some(question) => Some(question.clone()),
        None if std::io::stdin().is_terminal() => None,
        None => Some(read_question()?),
    };
    if question.as_ref().is_some_and(|question| question.trim().is_empty()) {
        return Err(AnswerError::Question { why: "is empty; give it in quotes, or through a pipe".into() });
    }
    let mut respondent = Respondent::open(Setup::new(options)?)?;
    let mut conversation = Conversation::new(options.system.clone());
    match question {
        Some(question) => answer_one(&mut respondent, &mut conversation, &question),
        None => chat(&mut respondent, conversation),
    }
}

fn answer_one(
    respondent: &mut Respondent,
    conversation: &mut Conversation,
    question: &str,
) -> Result<(), AnswerError> {
    let interruption = Interruption::watch_once().map_err(AnswerError::system("watch signals"))?;
    let reply = respondent.answer(conversation, question, (&mut Voice::new(), &interruption));
    match reply {
        Ok(Reply { ending: Ending::Interrupted, .. }) => Err(AnswerError::Stopped),
        Ok(reply) => {
            respondent.note_cut(&reply);
            Ok(())
        }
        Err(NoReply::Refused(fault)) => Err(fault.into()),
        Err(NoReply::Broken(error)) => Err(error),
    }
}

/// All of standard input but the end of its last line.
fn read_question() -> Result<String, AnswerError> {
    let mut bytes = Vec::new();
    let mut input = std::io::stdin().lock().take(MAX_QUESTION_BYTES + 1);
    input.read_to_end(&mut bytes).map_err(AnswerError::system("read the question"))?;
    if bytes.len() as u64 > MAX_QUESTION_BYTES {
        let why = format!("on standard input is longer than {MAX_QUESTION_BYTES} bytes");
        return Err(AnswerError::Question { why });
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        AnswerError::Question { why: format!("on standard input is not UTF-8 text: byte {at} is wrong") }
    })?;
    let end =
        text.strip_suffix('\n').map_or(text.as_str(), |rest| rest.strip_suffix('\r').unwrap_or(rest)).len();
    text.truncate(end);
    Ok(text)
}
