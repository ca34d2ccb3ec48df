//! Requests in, answers out: text to tokens, through the runner, and back to text. A request that cannot run
//! is answered at once with its fault; it never disturbs another one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::adapters::{AdapterPlaces, Adapters, LoadedAdapter};
use super::breakdown::Breakdown;
use super::choices::{Choice, Choices};
use super::engine::TextEngine;
use super::prompter::Prepared;
use super::ready::Runnable;
use super::refused::{begun, failed};
use super::ticket::Ticket;
use super::usage::give_back_heap;
use crate::device::{DeviceMemory, Opened};
use crate::infer::{
    AdapterUse, Finish, Guide, InferError, KvMemory, Output, Sampling, SequenceId, Sharing, StepCounts,
    Submission, seed_of,
};
use crate::spool::wire::{
    Answer, CacheCommit, CacheLookup, Fault, FaultCode, FinishReason, Logprobs, NO_LIMIT, Request,
    RequestFile, TokenBytes, Usage, request::fault_at,
};
use crate::text::{AnswerDecoder, StopStrings, Tokenizer};

/// Seed of requests that name none. Fixed, so that a run can be repeated.
const DEFAULT_SEED: u64 = 42;

/// The engine, its adapters and the requests under way.
pub struct Executor {
    engine: TextEngine,
    adapters: Adapters,
    active: HashMap<SequenceId, Active>,
    choices: Choices,
}

/// A request that generates, or one of its choices.
struct Active {
    ticket: Ticket,
    choice_idx: usize,
    answer: Answer,
    /// In the order of the request.
    adapters: Vec<Arc<LoadedAdapter>>,
    decoder: AnswerDecoder,
    stops: StopStrings,
}

impl Executor {
    pub fn new(engine: TextEngine, places: AdapterPlaces) -> Self {
        let adapters = Adapters::new(places, engine.limits().max_lora_rank);
        Self { engine, adapters, active: HashMap::new(), choices: Choices::default() }
    }

    pub fn engine(&self) -> &TextEngine {
        &self.engine
    }

    pub fn adapters(&self) -> &Adapters {
        &self.adapters
    }

    pub fn adapters_mut(&mut self) -> &mut Adapters {
        &mut self.adapters
    }

    /// Opens an adapter as for a request that names it.
    ///
    /// # Errors
    /// The [`Fault`] that the request would get.
    pub fn try_adapter(&self, name: &str) -> Result<(), Fault> {
        self.adapters.find_by_name(self.engine.runner.decoder(), name).map(drop)
    }

    /// The same for a request of this file.
    ///
    /// # Errors
    /// As [`Executor::try_adapter`].
    pub fn try_adapter_of(&self, file: &RequestFile, name: &str) -> Result<(), Fault> {
        self.adapters.find(self.engine.runner.decoder(), file, name).map(drop)
    }

    /// The names of the adapters of each request that runs, once for each request.
    pub fn adapters_in_use(&self) -> impl Iterator<Item = &str> {
        let running = self.active.iter().filter(|(id, _)| self.engine.runner.is_running(**id));
        running.flat_map(|(_, active)| active.answer.lora_names().collect::<BTreeSet<&str>>())
    }

    /// Requests that generate.
    pub fn n_running(&self) -> usize {
        self.engine.runner.n_running()
    }

    /// Requests that generate or wait for a place.
    pub fn n_active(&self) -> usize {
        self.active.len()
    }

    /// Whether a request added now would start with the next step.
    pub fn has_room(&self) -> bool {
        self.active.len() < self.engine.runner.batch_limit()
    }

    /// Memory of the GPU that computes, if one does.
    pub fn device_memory(&self) -> Option<DeviceMemory> {
        self.engine.runner.decoder().device().memory()
    }

    /// Memory of the key-value cache.
    pub fn kv_memory(&self) -> KvMemory {
        self.engine.runner.kv_memory()
    }

    /// What happened to the engine's files, if they are others than those it opened, or to its device: all that is
    /// under way is to be computed again on an engine that is opened anew.
    pub fn damage(&self) -> Option<Breakdown> {
        let device = || self.engine.runner.fault().cloned().map(Breakdown::Device);
        self.engine.damage().map(Breakdown::Files).or_else(device)
    }

    /// What the last step computed.
    pub fn last_step(&self) -> StepCounts {
        self.engine.runner.last_step()
    }

    /// Starts a request. Returns its answer if it cannot run.
    pub fn add(&mut self, ticket: Ticket, runnable: Runnable) -> Option<Answer> {
        let Runnable { mut request, prepared, guide, file } = runnable;
        // In a batch file the model's name says which adapter.
        if let Some(line) = &request.line
            && !self.engine.served_names().contains(&line.model)
        {
            request.lora_name = Some(line.model.clone());
        }
        let n_choices = request.line.as_ref().map_or(1, |line| line.n_choices);
        for choice_idx in 1..n_choices {
            let own = (prepared.clone(), guide.as_ref().map(|guide| guide.fork()));
            if let Some(refused) = self.add_choice(ticket, choice_idx, &request, own, &file) {
                return Some(refused);
            }
        }
        self.add_choice(ticket, 0, &request, (prepared, guide), &file)
    }

    /// Starts one of the answers to a request. Where it cannot run, none of them does.
    fn add_choice(
        &mut self,
        ticket: Ticket,
        choice_idx: usize,
        request: &Request,
        prepared: (Prepared, Option<Box<dyn Guide>>),
        file: &RequestFile,
    ) -> Option<Answer> {
        let mut answer = begun(ticket.request_idx, file.batch_size, request);
        let names = || Arc::clone(&self.engine.tokenizer) as Arc<dyn TokenBytes>;
        answer.logprobs = (request.sampling.num_logprobs > 0).then(|| Logprobs::new(names()));
        match self.start(request, choice_idx, prepared, file, &mut answer) {
            Ok((id, adapters)) => {
                let decoder = AnswerDecoder::new(&self.engine.tokenizer);
                let stops = StopStrings::new(request.stop.clone());
                self.active.insert(id, Active { ticket, choice_idx, answer, adapters, decoder, stops });
                None
            }
            Err(fault) => {
                self.drop_choices(ticket);
                Some(failed(answer, fault))
            }
        }
    }

    /// Drops what is under way of one request.
    fn drop_choices(&mut self, ticket: Ticket) {
        let runner = &mut self.engine.runner;
        self.choices.forget(ticket);
        self.active.retain(|id, active| {
            let stays = active.ticket != ticket;
            if !stays {
                runner.cancel(*id);
            }
            stays
        });
    }

    /// Computes one step; returns the answers that it finished. Of a damaged engine there are none from then on.
    pub fn step(&mut self) -> Vec<(Ticket, Answer)> {
        let outputs = self.engine.runner.step();
        // Files are asked after they were read and before a result is kept.
        if self.damage().is_some() {
            return Vec::new();
        }
        let mut finished = self.fail_changed();
        for output in outputs {
            let Some(active) = self.active.get_mut(&output.id) else { continue };
            let Some(reason) = active.take(&output, &self.engine.tokenizer) else { continue };
            if output.finish.is_none() {
                self.engine.runner.cancel(output.id);
            }
            if let Some(active) = self.active.remove(&output.id) {
                finished.push(active.finish(reason));
            }
        }
        // Once more, for the answers' texts come from a mapped table.
        match self.damage() {
            Some(_) => Vec::new(),
            None => finished.into_iter().filter_map(|choice| self.choices.take(choice)).collect(),
        }
    }

    /// Ends the requests whose adapters changed while the last step read them; the others are not touched.
    fn fail_changed(&mut self) -> Vec<Choice> {
        let mut asked: HashMap<*const LoadedAdapter, Option<Fault>> = HashMap::new();
        let mut faults: Vec<(SequenceId, Fault)> = Vec::new();
        for (id, active) in &self.active {
            let mut named = active.adapters.iter().zip(active.answer.lora_names());
            let fault = named.find_map(|(adapter, name)| {
                let change = || self.adapters.change(adapter, name);
                asked.entry(Arc::as_ptr(adapter)).or_insert_with(change).clone()
            });
            faults.extend(fault.map(|fault| (*id, fault)));
        }
        let mut finished = Vec::new();
        for (id, fault) in faults {
            self.engine.runner.cancel(id);
            if let Some(mut active) = self.active.remove(&id) {
                active.answer.error = Some(fault);
                finished.push(active.finish(FinishReason::Error));
            }
        }
        finished
    }

    /// Drops what is under way of one job.
    pub fn cancel_job(&mut self, job: u64) {
        let runner = &mut self.engine.runner;
        self.choices.forget_job(job);
        self.active.retain(|id, active| {
            let stays = active.ticket.job != job;
            if !stays {
                runner.cancel(*id);
            }
            stays
        });
    }

    /// Drops everything under way.
    pub fn cancel_all(&mut self) {
        self.choices = Choices::default();
        for (id, _) in self.active.drain() {
            self.engine.runner.cancel(id);
        }
    }

    /// Gives back what an idle daemon does not need: all private memory that the next job can do without.
    pub fn rest(&mut self) {
        self.adapters.sweep();
        self.engine.runner.give_back_memory();
        give_back_heap();
    }

    /// Gives back the keys and values that are kept for requests to come.
    pub fn drop_prefixes(&mut self) {
        self.engine.runner.drop_cached_blocks();
        self.engine.runner.give_back_free_blocks();
    }

    /// Gives back what nobody uses while others run, but for what requests to come may use.
    pub fn give_back_unused(&mut self) {
        self.adapters.sweep();
        self.engine.runner.give_back_free_blocks();
        give_back_heap();
    }

    /// The beginning of an answer under way that is sure to stay: whole characters, and nothing that may become a
    /// stop string.
    pub fn text_so_far(&self, ticket: Ticket) -> Option<&str> {
        self.active.values().find(|active| active.ticket == ticket).map(Active::sure_text)
    }

    /// Requests that may run at once.
    pub fn batch_limit(&self) -> usize {
        self.engine.runner.batch_limit()
    }

    /// Lets so many requests run at once.
    pub fn limit_batch(&mut self, n_requests: usize) {
        self.engine.runner.limit_batch(n_requests);
    }

    fn start(
        &mut self,
        request: &Request,
        choice_idx: usize,
        (prepared, guide): (Prepared, Option<Box<dyn Guide>>),
        file: &RequestFile,
        answer: &mut Answer,
    ) -> Result<(SequenceId, Vec<Arc<LoadedAdapter>>), Fault> {
        let Prepared { system_prompt, prompt_text, tokens } = prepared;
        let adapters = self.find_adapters(request, file, answer.request_idx)?;
        answer.formatted_system_prompt = system_prompt;
        answer.formatted_complete_request = prompt_text;
        answer.usage = Usage { prompt_tokens: tokens.len(), ..Usage::default() };
        self.warn_if_clamped(request, tokens.len(), answer);
        let submission = Submission::<Opened> {
            sharing: Sharing {
                takes: file.cache_lookup == CacheLookup::UseCache,
                gives_answer: file.cache_commit == CacheCommit::IncludingGeneratedTokens,
                n_kept: self.n_kept_tokens(request, &answer.formatted_system_prompt, &tokens),
            },
            prompt: tokens,
            adapters: adapters
                .iter()
                .map(|(adapter, scale)| AdapterUse {
                    lora: Arc::clone(adapter.lora()),
                    scale: *scale,
                    content: adapter.content(),
                })
                .collect(),
            sampling: sampling(request, (answer.request_idx, choice_idx)),
            guide,
            max_new_tokens: request.sampling.max_generate_length,
            stop_tokens: self.engine.stop_tokens(),
            num_logprobs: request.sampling.num_logprobs,
            priority: file.priority,
        };
        let id = self.engine.runner.add(submission).map_err(infer_fault)?;
        Ok((id, adapters.into_iter().map(|(adapter, _)| adapter).collect()))
    }

    /// The request's adapters and how much of each, in its order. A fault names the field that asks for the adapter.
    fn find_adapters(
        &self,
        request: &Request,
        file: &RequestFile,
        request_idx: usize,
    ) -> Result<Vec<(Arc<LoadedAdapter>, f32)>, Fault> {
        let decoder = self.engine.runner.decoder();
        let find = |(field, name, scale): (String, &str, f32)| {
            let found = self.adapters.find(decoder, file, name);
            found.map(|adapter| (adapter, scale)).map_err(|fault| match &request.line {
                Some(line) => self.fault_of_model(&line.model, fault),
                None => fault_at(request_idx, &field, fault.code, fault.message),
            })
        };
        request.adapters().map(find).collect()
    }

    /// The fault of a name that a batch file calls a model.
    fn fault_of_model(&self, model: &str, fault: Fault) -> Fault {
        if fault.code != FaultCode::UnknownAdapter {
            return fault;
        }
        let names = self.engine.served_names().join("\", \"");
        let place = self.adapters.places().directory.as_ref();
        let place = place.map_or(String::new(), |dir| format!(", or an adapter in {}", dir.display()));
        let message = format!("body.model: \"{model}\" is not known; wanted \"{names}\"{place}");
        Fault::new(FaultCode::UnknownAdapter, message)
    }

    /// Tokens of the system prompt, where the request asks to keep its keys and values. About so many: a token may
    /// stand for another number of bytes than its text has.
    fn n_kept_tokens(&self, request: &Request, system_prompt: &str, tokens: &[u32]) -> usize {
        if !request.save_system_prompt_kv_cache {
            return 0;
        }
        let mut n_bytes = 0;
        let is_within = |token: &&u32| {
            n_bytes += self.engine.tokenizer.token_bytes(**token).len();
            n_bytes <= system_prompt.len()
        };
        tokens.iter().take_while(is_within).count()
    }

    fn warn_if_clamped(&self, request: &Request, n_prompt: usize, answer: &mut Answer) {
        let capacity = self.engine.limits().max_kv_cache_capacity;
        let left = (capacity + 1).saturating_sub(n_prompt);
        let wanted = request.sampling.max_generate_length;
        if wanted > left && left > 0 && wanted != NO_LIMIT {
            answer.warnings.push(format!(
                "max_generate_length {wanted} is cut to {left}: the engine holds {capacity} tokens, \
                 the prompt has {n_prompt}"
            ));
        }
    }
}

impl Active {
    /// Takes a token; says why the answer ends with it, if it does.
    fn take(&mut self, output: &Output, tokenizer: &Tokenizer) -> Option<FinishReason> {
        if output.finish == Some(Finish::NotFinite) {
            let message = "the logits are not finite numbers; check the adapters and their scales";
            self.answer.error = Some(Fault::new(FaultCode::AdapterMismatch, message));
            return Some(FinishReason::Error);
        }
        self.answer.usage.cached_tokens = output.n_cached;
        if output.finish == Some(Finish::DeadEnd) {
            let message = "no token of the vocabulary may follow in what the guide wants; the answer is what came before";
            self.answer.error = Some(Fault::new(FaultCode::Guide, message));
            self.answer.output_text = self.decoder.text().to_owned();
            return Some(FinishReason::Error);
        }
        self.answer.token_ids.push(output.token);
        if let Some(logprobs) = &mut self.answer.logprobs {
            // In a batch file the drawn one goes first.
            let drawn = self.answer.line.as_ref().map(|_| (output.token, output.logprob));
            logprobs
                .push(drawn.into_iter().chain(output.logprobs.iter().map(|one| (one.token, one.logprob))));
        }
        let new_text = self.decoder.push(tokenizer, output.token);
        if let Some(cut) = self.stops.push(new_text) {
            self.answer.output_text = self.decoder.text()[..cut].to_owned();
            return Some(FinishReason::StopWords);
        }
        output.finish.map(|finish| match finish {
            Finish::EndOfSequence => FinishReason::EndOfSequence,
            Finish::MaxLength => FinishReason::MaxLength,
            Finish::NotFinite | Finish::DeadEnd => FinishReason::Error,
        })
    }

    fn sure_text(&self) -> &str {
        let text = self.decoder.text();
        &text[..text.len() - self.stops.n_open()]
    }

    fn finish(self, reason: FinishReason) -> Choice {
        let Self { ticket, choice_idx, mut answer, decoder, .. } = self;
        if !matches!(reason, FinishReason::StopWords | FinishReason::Error) {
            answer.output_text = decoder.into_text();
        }
        answer.finish_reason = reason;
        answer.usage.generated_tokens = answer.token_ids.len();
        Choice { ticket, choice_idx, answer }
    }
}

/// The seed of a request file's requests is the same for all of them, as in the workflow. In a batch file each line and
/// each choice has random numbers of its own, as it would have from a server.
fn sampling(request: &Request, (request_idx, choice_idx): (usize, usize)) -> Sampling {
    let wire = &request.sampling;
    let mut seed = wire.seed.unwrap_or(DEFAULT_SEED);
    if request.line.is_some() {
        let line = if wire.seed.is_none() { request_idx as u64 } else { 0 };
        seed = seed_of(seed_of(seed, line), choice_idx as u64);
    }
    Sampling {
        temperature: wire.temperature,
        top_p: wire.top_p,
        top_k: wire.top_k as usize,
        seed,
        logit_bias: wire.logit_bias.to_vec(),
    }
}

impl TokenBytes for Tokenizer {
    fn token_bytes(&self, token: u32) -> Vec<u8> {
        Tokenizer::token_bytes(self, token)
    }
}

fn infer_fault(error: InferError) -> Fault {
    let code = match error {
        InferError::PromptTooLong { .. } => FaultCode::PromptTooLong,
        InferError::Memory { .. } => FaultCode::TooLarge,
        InferError::EmptyPrompt => FaultCode::BadRequest,
        InferError::Token { .. } => FaultCode::Internal,
    };
    Fault::new(code, error.to_string())
}
