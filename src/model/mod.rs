//! A decoder over a device: weights, forward pass, adapters by row. Never JSON, a path or a clock.

mod batch;
mod decoder;
mod rope;
mod weights;

pub use batch::{LogitRows, Segment, block_ids};
pub use decoder::{BLOCK_LEN, Decoder, Workspace};
