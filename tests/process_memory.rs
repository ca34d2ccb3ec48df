//! process-lora holds one tensor of its output at a time, whatever the adapter's size.

#[path = "support/counting.rs"]
mod counting;

use std::fs;
use std::io::Write;
use std::path::Path;

use counting::peak_of;
use jetspool::tools::{ProcessOptions, process_lora};
use serde_json::{Map, Value, json};

const N_LAYERS: usize = 20;
const RANK: usize = 8;
const WIDTH: usize = 32_768;
/// f32 in, f16 out.
const TENSOR_BYTES: usize = RANK * WIDTH * 4;

/// An adapter of 40 tensors of 1 MiB, all of them zeros.
fn write_adapter(folder: &Path) {
    let config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": ["q_proj"]});
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let mut header = Map::new();
    for i in 0..2 * N_LAYERS {
        let (part, shape) = if i % 2 == 0 { ("A", [RANK, WIDTH]) } else { ("B", [WIDTH, RANK]) };
        let name = format!("base_model.model.model.layers.{}.self_attn.q_proj.lora_{part}.weight", i / 2);
        let offsets: Value = json!([i * TENSOR_BYTES, (i + 1) * TENSOR_BYTES]);
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": offsets}));
    }
    let header = Value::Object(header).to_string();
    let mut file = fs::File::create(folder.join("adapter_model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // A hole: it takes no room on the disk.
    file.set_len((8 + header.len() + 2 * N_LAYERS * TENSOR_BYTES) as u64).unwrap();
}

#[test]
fn one_tensor_is_in_memory_at_a_time() {
    let scratch = tempfile::tempdir().unwrap();
    write_adapter(scratch.path());
    let options = ProcessOptions::new(scratch.path().to_owned(), scratch.path().join("out"));
    let mut report = None;
    let peak = peak_of(|| report = Some(process_lora(&options).unwrap()));
    let report = report.unwrap();
    assert_eq!(report.n_pairs, N_LAYERS);
    let written = fs::metadata(&report.path).unwrap().len();
    assert!(written > (N_LAYERS * TENSOR_BYTES) as u64);
    // A tensor of the output, a row of the widest, the block that a file is written in, and what names and buffers take.
    assert!(peak < TENSOR_BYTES / 2 + (2 << 20) + (1 << 20), "{peak} bytes at once for a file of {written}");
}
