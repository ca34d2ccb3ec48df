//! An engine that is asked one question after the other. Its requests are those of a request file with the same
//! messages: the same tokens come out.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use super::conversation::Conversation;
use super::interruption::Interruption;
use super::setup::Setup;
use super::voice::Voice;
use crate::answer::adapters::AdapterPlaces;
use crate::answer::breakdown::Breakdown;
use crate::answer::engine::TextEngine;
use crate::answer::error::AnswerError;
use crate::answer::executor::Executor;
use crate::answer::prompter::unix_time;
use crate::answer::ready::Ready;
use crate::answer::ticket::Ticket;
use crate::spool::wire::{Answer, Fault, FaultCode, FinishReason, Request, RequestFile, Usage};
use crate::store::{AllowedRoots, StoreError};

/// There is one request at a time.
const TICKET: Ticket = Ticket { job: 0, request_idx: 0 };

/// The engine, the adapter, and how it is asked.
pub struct Respondent {
    executor: Executor,
    /// The top level of the file that such requests would stand in.
    file: Arc<RequestFile>,
    /// Without messages.
    request: Request,
}

/// What was said.
#[derive(Debug)]
pub struct Reply {
    pub text: String,
    pub ending: Ending,
    pub usage: Usage,
    /// Questions that were forgotten, with their answers, so that this one fits.
    pub n_forgotten: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Finished(FinishReason),
    /// By Ctrl-C.
    Interrupted,
    /// Nobody reads standard output any more.
    Unheard,
}

/// Why nothing, or not all, was said.
#[derive(Debug)]
pub enum NoReply {
    /// To this question; the next one may be answered.
    Refused(Fault),
    /// To any question.
    Broken(AnswerError),
}

impl Respondent {
    /// Opens the engine and the adapter.
    ///
    /// # Errors
    /// [`AnswerError`] with what is wrong with them.
    pub fn open(setup: Setup) -> Result<Self, AnswerError> {
        let Setup { engine: options, adapter, request } = setup;
        let mut engine = TextEngine::open(&options, 0)?;
        engine.open_prompter(&options.directory)?;
        if !engine.has_template() {
            return Err(AnswerError::NoTemplate { directory: options.directory });
        }
        let places = AdapterPlaces { roots: AllowedRoots::new(vec!["/".into()]), directory: None };
        let executor = Executor::new(engine, places);
        let mut file = RequestFile::parse(br#"{"requests": [{}]}"#.to_vec())?;
        if let Some((name, path)) = adapter {
            file.adapters.insert(name.clone(), path);
            executor.try_adapter_of(&file, &name)?;
        }
        Ok(Self { executor, file: Arc::new(file), request })
    }

    /// Says that an answer ends because it is as long as it may be.
    pub fn note_cut(&self, reply: &Reply) {
        if reply.ending != Ending::Finished(FinishReason::MaxLength) {
            return;
        }
        let n_tokens = reply.usage.generated_tokens;
        let why = match n_tokens < self.request.sampling.max_generate_length {
            true => ": the engine has no room for more",
            false => "; --maxGenerateLength allows more",
        };
        tracing::info!("the answer was cut after {n_tokens} tokens{why}");
    }

    /// Says the answer to a question as it comes, and its last line end. The oldest turns are forgotten where
    /// question and answer have no room otherwise; the new one is not kept here.
    ///
    /// # Errors
    /// [`NoReply`].
    pub fn answer(
        &mut self,
        conversation: &mut Conversation,
        question: &str,
        (voice, interruption): (&mut Voice, &Interruption),
    ) -> Result<Reply, NoReply> {
        let mut n_forgotten = 0;
        let start = Instant::now();
        while let Err(fault) = self.begin(conversation, question) {
            if conversation.is_empty() || !is_too_long(&fault) {
                return Err(NoReply::Refused(fault));
            }
            conversation.forget_oldest();
            n_forgotten += 1;
        }
        let reply = self.speak(voice, interruption);
        self.executor.cancel_all();
        let reply = reply.map(|reply| Reply { n_forgotten, ..reply })?;
        let Usage { prompt_tokens, cached_tokens, generated_tokens, .. } = reply.usage;
        let seconds = start.elapsed().as_secs_f64();
        tracing::debug!(
            "{prompt_tokens} prompt tokens, {cached_tokens} of them known; {generated_tokens} generated, \
             {seconds:.2} s, {:.1} tokens/s",
            generated_tokens as f64 / seconds.max(1e-9)
        );
        Ok(reply)
    }

    /// Starts the answer. A conversation leaves it all the room that it may take, or at least a quarter.
    fn begin(&mut self, conversation: &Conversation, question: &str) -> Result<(), Fault> {
        let engine = self.executor.engine();
        let request = Request { messages: conversation.messages(question), ..self.request.clone() };
        let ready = Ready::new(Ok(request), (&self.file, 0), unix_time(), engine.guides(), |prompt| {
            engine.prepare(prompt)
        });
        let runnable = match ready {
            Ready::Run(runnable) => *runnable,
            Ready::Answered(answer) => return Err(fault_of(*answer)),
        };
        let (capacity, n_tokens) = (engine.limits().max_kv_cache_capacity, runnable.prepared.tokens.len());
        let n_answer = self.request.sampling.max_generate_length.min(capacity / 4);
        if !conversation.is_empty() && n_tokens + n_answer > capacity {
            let message = format!("{n_tokens} tokens leave no room for an answer in {capacity}");
            return Err(Fault::new(FaultCode::PromptTooLong, message));
        }
        self.executor.add(TICKET, runnable).map_or(Ok(()), |refused| Err(fault_of(refused)))
    }

    fn speak(&mut self, voice: &mut Voice, interruption: &Interruption) -> Result<Reply, NoReply> {
        let mut n_said = 0;
        let mut usage = Usage::default();
        loop {
            let finished = self.executor.step().pop();
            if let Some(breakdown) = self.executor.damage() {
                let _ = voice.end_line();
                return Err(NoReply::Broken(broken(breakdown)));
            }
            let counts = self.executor.last_step();
            usage.prompt_tokens += counts.n_prompt_tokens + counts.n_cached_tokens;
            usage.cached_tokens += counts.n_cached_tokens;
            usage.generated_tokens += counts.n_prompts_read + counts.n_generating;
            let (text, ending, usage) = match finished {
                Some((_, answer)) if answer.error.is_some() => {
                    let _ = voice.end_line();
                    return Err(NoReply::Refused(fault_of(answer)));
                }
                Some((_, answer)) => {
                    (answer.output_text, Some(Ending::Finished(answer.finish_reason)), answer.usage)
                }
                None => {
                    let text = self.executor.text_so_far(TICKET).unwrap_or_default().to_owned();
                    (text, interruption.take().then_some(Ending::Interrupted), usage)
                }
            };
            let said = voice.say(&text[n_said..]).and_then(|()| match ending {
                Some(_) => voice.end_line(),
                None => Ok(()),
            });
            n_said = text.len();
            let ending = match said {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Some(Ending::Unheard),
                Err(error) => return Err(NoReply::Broken(AnswerError::Output(error))),
                Ok(()) => ending,
            };
            if let Some(ending) = ending {
                return Ok(Reply { text, ending, usage, n_forgotten: 0 });
            }
        }
    }
}

fn is_too_long(fault: &Fault) -> bool {
    matches!(fault.code, FaultCode::PromptTooLong | FaultCode::TooLarge)
}

fn fault_of(answer: Answer) -> Fault {
    answer.error.unwrap_or_else(|| Fault::new(FaultCode::Internal, "the request was not run"))
}

fn broken(breakdown: Breakdown) -> AnswerError {
    match breakdown {
        Breakdown::Files(damage) => StoreError::from(damage).into(),
        Breakdown::Device(_) => Fault::new(FaultCode::Internal, breakdown.to_string()).into(),
    }
}
