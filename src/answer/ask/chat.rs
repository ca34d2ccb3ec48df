//! Question after question at a terminal. The prompt and all hints go to standard error, so that the answers alone
//! can be piped.

use std::io::{self, Write};

use super::conversation::Conversation;
use super::interruption::Interruption;
use super::lines::{Entry, Lines};
use super::respondent::{Ending, NoReply, Reply, Respondent};
use super::voice::Voice;
use crate::answer::error::AnswerError;

const HELP: &str = "\
/reset, /new  forget what was said
/exit         leave; Ctrl-D does too
/help         this
Ctrl-C ends an answer; what was said of it is kept. A line that ends in \\ goes on in the next one.
A question that begins with a slash: put a blank before it.";
const PROMPT: &str = "> ";
const FURTHER_PROMPT: &str = ". ";

/// What a line means.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Question(&'a str),
    Forget,
    Help,
    Exit,
    Unknown(&'a str),
}

/// How the chat goes on.
enum Next {
    Ask,
    AskAnew,
    Leave,
}

/// Answers until Ctrl-D.
///
/// # Errors
/// [`AnswerError::Stopped`] after Ctrl-C twice; or what makes further answers impossible.
pub fn chat(respondent: &mut Respondent, mut conversation: Conversation) -> Result<(), AnswerError> {
    let interruption = Interruption::watch().map_err(AnswerError::system("watch signals"))?;
    let mut lines = Lines::new(io::stdin());
    let mut voice = Voice::new();
    let mut is_warned = false;
    hint("/help lists what else there is; Ctrl-D leaves\n");
    loop {
        match enter(&mut lines, &interruption)? {
            Entry::End => {
                hint("\n");
                return Ok(());
            }
            Entry::Interrupted if is_warned => {
                hint("\n");
                return Err(AnswerError::Stopped);
            }
            Entry::Interrupted => {
                hint("\nCtrl-D or /exit leaves, and so does another Ctrl-C\n");
                is_warned = true;
            }
            Entry::Line(text) => {
                is_warned = false;
                let question = match Line::of(&text) {
                    Line::Question(question) => question,
                    Line::Exit => return Ok(()),
                    other => {
                        obey(&other, &mut conversation);
                        continue;
                    }
                };
                match reply(respondent, &mut conversation, question, (&mut voice, &interruption))? {
                    Next::Ask => {}
                    // Whoever stops an answer does not mean the questions that were typed meanwhile.
                    Next::AskAnew => lines.drop_waiting(),
                    Next::Leave => return Ok(()),
                }
            }
        }
    }
}

/// A line, and those that it goes on in.
fn enter(lines: &mut Lines<io::Stdin>, interruption: &Interruption) -> Result<Entry, AnswerError> {
    let mut text = String::new();
    hint(PROMPT);
    loop {
        match lines.next(interruption).map_err(AnswerError::system("read the question"))? {
            Entry::Line(line) => match line.strip_suffix('\\') {
                Some(start) => {
                    text.push_str(start);
                    text.push('\n');
                    hint(FURTHER_PROMPT);
                }
                None => return Ok(Entry::Line(text + &line)),
            },
            // The question is whole with it; the next Ctrl-D is the end.
            Entry::End if !text.is_empty() => return Ok(Entry::Line(text)),
            other => return Ok(other),
        }
    }
}

impl<'a> Line<'a> {
    fn of(text: &'a str) -> Self {
        match text.trim_end() {
            "" => Self::Nothing,
            "/reset" | "/new" => Self::Forget,
            "/help" | "/?" => Self::Help,
            "/exit" | "/quit" | "/bye" => Self::Exit,
            command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                Self::Unknown(command)
            }
            _ if text.trim().is_empty() => Self::Nothing,
            _ => Self::Question(text.trim()),
        }
    }
}

/// Does what is no question.
fn obey(line: &Line, conversation: &mut Conversation) {
    match line {
        Line::Forget => {
            conversation.forget_all();
            hint("forgotten\n");
        }
        Line::Help => hint(&format!("{HELP}\n")),
        Line::Unknown(command) => {
            hint(&format!(
                "there is no {command}; /help lists what there is, a blank before it makes it a question\n"
            ));
        }
        Line::Nothing | Line::Question(_) | Line::Exit => {}
    }
}

fn reply(
    respondent: &mut Respondent,
    conversation: &mut Conversation,
    question: &str,
    listener: (&mut Voice, &Interruption),
) -> Result<Next, AnswerError> {
    match respondent.answer(conversation, question, listener) {
        Ok(Reply { ending: Ending::Unheard, .. }) => Ok(Next::Leave),
        Ok(reply) => {
            // An answer that Ctrl-C ended before its first word was not given.
            if reply.ending != Ending::Interrupted || !reply.text.is_empty() {
                conversation.keep(question, &reply.text);
            }
            respondent.note_cut(&reply);
            if reply.n_forgotten > 0 {
                tracing::info!(
                    "the conversation is longer than the engine takes: the oldest {} forgotten",
                    if reply.n_forgotten == 1 {
                        "question is".into()
                    } else {
                        format!("{} questions are", reply.n_forgotten)
                    }
                );
            }
            Ok(if reply.ending == Ending::Interrupted { Next::AskAnew } else { Next::Ask })
        }
        Err(NoReply::Refused(fault)) => {
            tracing::error!("{fault}");
            Ok(Next::Ask)
        }
        Err(NoReply::Broken(error)) => Err(error),
    }
}

/// Says something that is no answer. Whoever closed standard error wants to hear none of it.
fn hint(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_one_word_at_the_start() {
        let cases = [
            ("", Line::Nothing),
            ("  ", Line::Nothing),
            ("/reset", Line::Forget),
            ("/new ", Line::Forget),
            ("/exit", Line::Exit),
            ("/help", Line::Help),
            ("/rest", Line::Unknown("/rest")),
            (" /etc/fstab", Line::Question("/etc/fstab")),
            ("/etc/fstab is what?", Line::Question("/etc/fstab is what?")),
            (" Hello \t", Line::Question("Hello")),
        ];
        for (text, wanted) in cases {
            assert_eq!(Line::of(text), wanted, "{text:?}");
        }
    }
}
