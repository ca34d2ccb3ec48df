//! Live files: the one map and what may break it, the one atomic writer, and the catalog that shares what was
//! loaded.

pub mod access;
pub mod adapter_files;
pub mod atomic_file;
mod blocks;
pub mod catalog;
pub mod checkpoint;
pub mod damage;
pub mod digest;
pub mod directory;
pub mod engine;
mod engine_files;
pub mod error;
mod expected;
pub mod map;
pub mod mistaken;
pub mod roots;
pub mod sealed;
mod thing;
mod tuning;
mod way_out;
pub mod weight_files;

pub use adapter_files::config_beside;
pub use atomic_file::AtomicFile;
pub use blocks::Blocks;
pub use catalog::Catalog;
pub use checkpoint::Checkpoint;
pub use damage::{Damage, Losses};
pub use directory::DirectoryKind;
pub use engine::Engine;
pub use error::StoreError;
pub use expected::Expected;
pub use map::{FileMap, Generation, map_file, read_small, read_small_optional};
pub use mistaken::{explain, processed_file};
pub use roots::AllowedRoots;
pub use sealed::Sealed;
pub use tuning::{TuningError, write_tuning};
pub use weight_files::WeightFiles;
