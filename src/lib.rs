//! jetspool: offline LLM batches with LoRA adapters. The map of the house; no logic stands here.
//!
//! ```text
//! cli      the words of each command; opens no file        config   checked once; alone reads the environment
//! daemon   a loop that waits; threads for disk, new files, texts and computing
//! tools    the tool chain, from checkpoint to engine
//! answer   one request to one answer; also `run`, `ask`    operator submit, status, hold, ...: the spool's other end
//! probe    a model without a queue: logits, bench          spool    a request on disk. Never a token or tensor
//! compress quantize-llm: a checkpoint made smaller, judged by what the model then says
//! doctor   what keeps the daemon from working; mends nothing
//! text     text to tokens and back. Never a model          infer    who runs now. Never tensor bytes or files
//! model    a decoder over a device. Never JSON or paths    device   operations of a decoder; open alone chooses
//! kernels  arithmetic on slices; scalar.rs is its meaning  store    live files: map, atomic writer, catalog
//! format   bytes to typed views. Never a path or thread    numbers  kinds of weights, words of the architecture
//! cuda     the driver of GPUs, loaded when asked for       progress how far long work is, on a terminal
//! service  signals, and what systemd is told            exit, count  names of exit codes, `1 job`: for every room
//! load     an engine and a device become a decoder, a file its adapter: `serve`, `run` and the probes begin here
//! fleet    the bridge to a queue on NATS JetStream, a process of its own: the only room that knows a network
//! ```
//!
//! Arrows (who may use whom), held by tests/library/architecture.rs:
//!
//! ```text
//! main    -> cli answer compress config daemon doctor operator probe tools
//! cli     -> answer compress config daemon doctor fleet operator probe tools format numbers (options, reports, errors only)
//! daemon  -> answer spool config service infer (its counts)
//! answer  -> spool (its wire) config store text load infer model device format numbers progress
//! operator -> spool store
//! fleet   -> spool (its wire and socket) config service store (small files)
//! doctor  -> answer spool store config format cuda
//! probe   -> load store infer (its sampler) model device kernels format numbers progress
//! load    -> store model device format numbers
//! compress -> tools store text model device format numbers progress
//! tools   -> store text kernels format numbers progress device, cuda (kernels and their compiler only)
//! infer   -> model device (its trait) format numbers
//! model   -> device format numbers     device -> kernels format numbers cuda
//! kernels -> numbers                   store  -> format            format -> numbers
//! config  -> numbers                   service -> config
//! spool, text, numbers, cuda, progress -> nothing of ours
//! ```
//!
//! Life of `x.json`: renamed into new/ -> the scout sees it, the spool's writer claims it -> wire reads it under
//! limits -> another process renders and tokenizes (text) -> the writer marks the request as running -> answer
//! pins its adapter (store), infer adds it to the batch -> model computes a step, each row with its own adapter ->
//! infer samples -> text decodes -> the writer journals each finished request, and brings out/x.json out.
//!
//! One async runtime, on one thread, for the daemon's waiting alone: files, signals, orders, memory pressure and
//! timers wake it; it computes nothing, and no other room knows it, but for fleet, which has one of its own for the
//! waiting of the bridge's process.
//!
//! Deliberately absent: a network port (the bridge calls, nobody calls it), a plug-in interface, a global (but for the table of maps
//! in store/damage.rs, which a signal's handler must find), a second copy of the weights, any answer that depends
//! on who else is in the batch.

pub mod answer;
pub mod cli;
pub mod compress;
pub mod config;
pub mod count;
pub mod cuda;
pub mod daemon;
pub mod device;
pub mod doctor;
pub mod exit;
#[cfg(feature = "fleet")]
pub mod fleet;
pub mod format;
pub mod infer;
pub mod kernels;
pub mod load;
pub mod model;
pub mod numbers;
pub mod operator;
pub mod probe;
pub mod progress;
pub mod service;
pub mod spool;
pub mod store;
pub mod text;
pub mod tools;
