//! The other end of the spool: `submit`, `status`, and the commands on jobs.

mod client;
mod error;
mod operate;
mod output;
mod page;
mod screen;
mod submit;

pub use error::OperatorError;
pub use operate::{OperateOptions, flush, operate};
pub use screen::{ErrorsOptions, Serving, StatusOptions, errors, last_use, serving, status};
pub use submit::{SubmitOptions, submit};

pub use crate::spool::Action;
