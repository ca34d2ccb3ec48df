//! ONNX models: read in place, written message by message, and the decoder recognized in their graph.

mod attention;
pub mod config;
mod cut;
pub mod decoder;
mod index;
mod linear;
mod mlp;
pub mod model;
mod norm;
pub mod protobuf;
mod scaled;
pub mod tensor;
pub mod write;

pub use config::OnnxConfig;
pub use decoder::{OnnxDecoder, OnnxLayer};
pub use linear::{Int4Packing, Int4Weight, Linear, LinearWeight};
pub use mlp::{Gated, OnnxMixture, OnnxMlp};
pub use model::{Graph, Model, Node, ValueInfo};
pub use norm::Norm;
pub use scaled::{ScaledWeight, Spread};
pub use tensor::{ElementType, Place, StoredTensor};
