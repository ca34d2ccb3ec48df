//! The request file and the answer file as bytes, under limits.

pub mod adapter_name;
pub mod answer;
pub mod answer_file;
pub mod echo;
pub mod fault;
pub mod finish;
pub mod guide;
pub mod indent;
pub mod json;
pub mod limits;
pub mod logprobs;
pub mod loras;
pub mod message;
pub mod object;
pub mod openai;
mod other_form;
pub mod request;
pub mod request_file;
pub mod sampling;
pub mod span;
pub mod whole;

pub use adapter_name::AdapterName;
pub use answer::Answer;
pub use answer_file::AnswerFile;
pub use echo::Echo;
pub use fault::{Fault, FaultCode};
pub use finish::{FinishReason, Usage};
pub use guide::{CallableFunction, Guide};
pub use logprobs::{Logprobs, TokenBytes};
pub use loras::LoraUse;
pub use message::{ContentPart, Message, Role};
pub use openai::line::{Endpoint, Line, Stamp};
pub use request::{BadRequest, ChatOptions, Request};
pub use request_file::{CacheCommit, CacheLookup, Form, RequestFile};
pub use sampling::{NO_LIMIT, Sampling};
pub use whole::{Completeness, completeness, lines_completeness};
