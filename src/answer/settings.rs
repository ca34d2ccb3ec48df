//! What the configuration says of an engine and of adapters.

use super::adapters::AdapterPlaces;
use super::engine::EngineOptions;
use crate::config::Config;
use crate::infer::PrefixCache;
use crate::store::AllowedRoots;

impl From<&Config> for EngineOptions {
    fn from(config: &Config) -> Self {
        let bytes = |mib: usize| (mib as u64) << 20;
        Self {
            directory: config.engine.clone(),
            n_threads: config.threads,
            max_step_rows: config.max_step_rows,
            max_memory: (config.memory_mib > 0).then_some(bytes(config.memory_mib)),
            prefix_cache: PrefixCache::Bytes(bytes(config.prefix_cache_mib)),
            kv_cache_dtype: config.kv_cache_dtype,
            device: config.device,
            served_names: config.served_model_names.clone(),
        }
    }
}

impl From<&Config> for AdapterPlaces {
    fn from(config: &Config) -> Self {
        Self { roots: AllowedRoots::new(config.allowed_roots.clone()), directory: config.adapters.clone() }
    }
}
