//! `bench` counts what it was asked to count. Its times are nobody's promise.

use std::path::PathBuf;

use crate::support::data;
use jetspool::numbers::{KvCacheDtype, Precision};
use jetspool::probe::{BenchMode, BenchOptions, bench};
use jetspool::tools::{ProcessOptions, process_lora};
use serde_json::Value;

struct Demo {
    folder: tempfile::TempDir,
    loras: Vec<PathBuf>,
}

impl Demo {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        crate::support::build_engine(
            &data("demo/checkpoint"),
            &folder.path().join("engine"),
            Precision::Int8,
        );
        let process = |name: &str| {
            let input_dir = data(&format!("demo/adapters/{name}"));
            let output_dir = folder.path().join(name);
            process_lora(&ProcessOptions::new(input_dir, output_dir.clone())).unwrap();
            output_dir.join("processed_adapter_model.safetensors")
        };
        let loras = vec![process("french"), process("german")];
        Self { folder, loras }
    }

    fn bench(&self, mode: Option<BenchMode>, n_loras: usize) -> Value {
        let options = BenchOptions {
            engine_dir: self.folder.path().join("engine"),
            mode,
            batch_size: 2,
            input_len: 20,
            past_kv_len: 40,
            iterations: 2,
            loras: self.loras[..n_loras].to_vec(),
            threads: 1,
            kv_cache_dtype: KvCacheDtype::Auto,
            device: jetspool::numbers::DeviceChoice::Cpu,
            measures_read_rate: false,
        };
        let report = bench(&options).unwrap();
        assert!(!report.to_string().is_empty());
        report.to_json()
    }
}

#[test]
fn cases_are_what_was_asked_for() {
    let demo = Demo::new();
    let one = demo.bench(Some(BenchMode::Decode), 0);
    assert_eq!((&one["mode"], &one["batch_size"], &one["length"]), (&"decode".into(), &2.into(), &40.into()));
    let both = demo.bench(Some(BenchMode::Decode), 2);
    assert!(both["bytes_per_step"].as_u64() > one["bytes_per_step"].as_u64(), "adapters are read too");
    for name in ["load_ms", "first_step_ms", "tokens_per_second", "gb_per_second"] {
        assert!(one[name].as_f64().unwrap() > 0.0, "{name}");
    }
    for name in ["greedy", "defaults", "top_k_0"] {
        assert!(one["sampling_us_per_row"][name].as_f64().unwrap() > 0.0, "{name}");
    }
    assert_eq!(one["read_bandwidth_gb_per_second"], Value::Null);

    let sweep = demo.bench(None, 2);
    let cases: Vec<String> = sweep["cases"].as_array().unwrap().iter().map(name_of).collect();
    // The engine takes prompts of 512 tokens and eight sequences.
    let wanted =
        ["decode 1 0", "decode 8 0", "prefill 1 0", "decode 1 1", "decode 8 1", "prefill 1 1", "decode 8 2"];
    assert_eq!(cases, wanted);
}

fn name_of(case: &Value) -> String {
    format!("{} {} {}", case["mode"].as_str().unwrap(), case["batch_size"], case["adapters"])
}
