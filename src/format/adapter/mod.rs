//! An adapter: PEFT's configuration and names, and the file that `process-lora` makes of it.

mod origin;
pub mod peft_config;
pub mod peft_names;
mod processed;

pub use origin::{Mark, bind_with_config, check_origin};
pub use peft_config::PeftConfig;
pub use peft_names::{LoraPart, PeftName, without_wrappers_of_training};
pub use processed::{Adapter, AdapterError, LoraPair};
pub(crate) use processed::{listed, parse_name};
