//! The limits of a request file, in one place (FORMATS section 1). Every message of a refusal names its limit.

/// Requests in one file.
pub const REQUESTS: usize = 100_000;
/// Nesting of arrays and objects.
pub const DEPTH: usize = 128;
/// Entries of `available_lora_weights`.
pub const ADAPTERS: usize = 10_000;
/// Requests of one group (`batch_size`).
pub const BATCH_SIZE: usize = 16;
/// Messages of one request.
pub const MESSAGES: usize = 64;
/// Content items of one message.
pub const CONTENT_ITEMS: usize = 18;
/// Bytes of one content item.
pub const CONTENT_BYTES: usize = 128 * 1024;
/// Bytes of text of one request. The rendered prompt has the same limit, held by whoever renders it.
pub const TEXT_BYTES: usize = 1024 * 1024;
/// Entries of one `logit_bias`.
pub const LOGIT_BIAS_ENTRIES: usize = 1024;
/// Largest magnitude of a logit bias.
pub const LOGIT_BIAS: f64 = 100.0;
/// Largest `num_logprobs`.
pub const NUM_LOGPROBS: usize = 50;
/// Stop strings of one request.
pub const STOP_STRINGS: usize = 64;
/// Bytes of one stop string.
pub const STOP_BYTES: usize = 4096;
/// Bytes of the JSON text of `guided_decoding` or `response_format`, as in the original.
pub const GUIDE_BYTES: usize = 128 * 1024;
/// Bytes of one line of a batch file.
pub const LINE_BYTES: usize = 4 * 1024 * 1024;
/// Answers to one line (`n`).
pub const CHOICES: usize = 128;
/// Functions in `tools`.
pub const TOOLS: usize = 128;
/// Bytes of the JSON text of `tools`.
pub const TOOLS_BYTES: usize = 256 * 1024;
/// Bytes of the JSON text of an `id`.
pub const ID_BYTES: usize = 4096;
/// Adapters of one request (`loras`).
pub const LORAS: usize = 8;
/// Bytes of a `lora_name`, or of a name in `loras`.
pub const NAME_BYTES: usize = 1024;
/// Magnitude of `priority`.
pub const PRIORITY: i32 = 100;
/// Unknown fields of one object that are named in a warning; the rest is counted.
pub const UNKNOWN_NAMED: usize = 8;
