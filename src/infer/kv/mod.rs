//! The blocks of the key-value cache: which are free, what full ones hold, and who holds them.

pub mod ledger;
pub mod pool;
pub mod prefix;
