//! Damaged checkpoints and engines are named, never a panic.

use crate::support::reference;
use jetspool::device::Cpu;
use jetspool::format::{StoredMatrix, TensorFile};
use jetspool::kernels::Kernels;
use jetspool::model::Decoder;
use jetspool::numbers::Precision;
use jetspool::store::Engine;
use jetspool::tools::build;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::support::{Parts, changed, checkpoint, options, parts, refused, write};

#[test]
fn damaged_tensors_are_named() {
    const UP: &str = "model.layers.0.mlp.up_proj";
    struct Case {
        name: &'static str,
        part: &'static str,
        change: fn(&mut (Dtype, Vec<usize>, Vec<u8>)),
        said: &'static str,
    }
    fn reshape(tensor: &mut (Dtype, Vec<usize>, Vec<u8>)) {
        let n = tensor.1.iter().product();
        tensor.1 = if tensor.1.len() == 1 { vec![1, n] } else { vec![n] };
    }
    fn put(tensor: &mut (Dtype, Vec<usize>, Vec<u8>), bytes: &[u8]) {
        tensor.2[..bytes.len()].copy_from_slice(bytes);
    }
    let nan = f32::NAN.to_le_bytes();
    assert_eq!(nan, [0, 0, 0xc0, 0x7f]);
    let cases = [
        Case { name: "fp8", part: "weight", change: |t| t.0 = Dtype::U8, said: "U8" },
        Case { name: "fp8", part: "weight", change: |t| put(t, &[0x7f]), said: "NaN" },
        Case { name: "fp8", part: "weight_scale", change: |t| put(t, &[0, 0, 0xc0, 0x7f]), said: "NaN" },
        Case { name: "nvfp4", part: "weight_scale", change: |t| put(t, &[0xff]), said: "NaN" },
        Case { name: "nvfp4", part: "weight_scale", change: reshape, said: "shape" },
        Case { name: "mxfp8", part: "weight_scale", change: |t| put(t, &[0xff]), said: "NaN" },
        Case { name: "mxfp8", part: "weight", change: reshape, said: "shape" },
        Case { name: "int4_awq", part: "pre_quant_scale", change: reshape, said: "shape" },
        Case { name: "int4_awq", part: "weight", change: reshape, said: "shape" },
        Case {
            name: "int4_awq",
            part: "weight_scale",
            change: |t| t.1 = vec![t.1[1], t.1[0]],
            said: "shape",
        },
        Case { name: "int8_sq", part: "weight", change: |t| t.0 = Dtype::U8, said: "U8" },
        Case { name: "int8_sq", part: "weight_scale", change: reshape, said: "shape" },
        Case { name: "awq_g64", part: "qzeros", change: reshape, said: "shape" },
        Case { name: "awq_g128", part: "qweight", change: reshape, said: "shape" },
        Case { name: "awq_g64", part: "scales", change: |t| t.0 = Dtype::I16, said: "I16" },
        Case { name: "gptq_order", part: "g_idx", change: |t| put(t, &[9, 0, 0, 0]), said: "group 9 of 2" },
        Case { name: "gptq_order", part: "g_idx", change: |t| put(t, &[255; 4]), said: "group -1 of 2" },
        Case { name: "gptq_order", part: "g_idx", change: |t| put(t, &[0; 8]), said: "gives group 0" },
        Case { name: "gptq_order", part: "g_idx", change: reshape, said: "shape" },
        Case { name: "ct_packed", part: "weight_packed", change: reshape, said: "shape" },
        Case { name: "ct_packed", part: "weight_zero_point", change: reshape, said: "shape" },
        Case { name: "ct_packed", part: "weight_shape", change: |t| put(t, &[65]), said: "[65, 64]" },
        Case {
            name: "ct_packed",
            part: "weight_g_idx",
            change: |t| put(t, &[9, 0, 0, 0]),
            said: "group 9 of 2",
        },
        Case { name: "ct_mixed", part: "weight_global_scale", change: |t| put(t, &[0; 4]), said: "above 0" },
        Case { name: "ct_mixed", part: "weight_scale", change: |t| put(t, &[0xff]), said: "NaN" },
        Case { name: "fp8_blocks", part: "weight_scale_inv", change: reshape, said: "shape" },
        Case { name: "fp8_blocks", part: "weight", change: |t| put(t, &[0x7f]), said: "NaN" },
        Case { name: "gptq_8bit", part: "qzeros", change: reshape, said: "shape" },
        Case {
            name: "nf4",
            part: "weight",
            change: |t| {
                t.1 = vec![8, 1];
                t.2.truncate(8);
            },
            said: "shape",
        },
        Case { name: "nf4", part: "weight.absmax", change: reshape, said: "shape" },
        Case { name: "fp4", part: "weight.absmax", change: |t| put(t, &[0, 0, 0xc0, 0x7f]), said: "NaN" },
        Case { name: "nf4", part: "weight.quant_map", change: |t| put(t, &[0, 0, 0xc0, 0x7f]), said: "NaN" },
        Case { name: "gptq_v2", part: "qzeros", change: |t| t.1.reverse(), said: "shape" },
        Case { name: "gptq_v2", part: "scales", change: |t| put(t, &[0, 0x7c]), said: "inf" },
    ];
    for Case { name, part, change, said } in cases {
        let full = format!("{UP}.{part}");
        let model = changed(name, |parts| change(parts.get_mut(&full).unwrap()), |_| {});
        let message = refused(model.path(), Precision::Stored);
        assert!(message.contains(&full) && message.contains(said), "{name} {part}: {message}");
    }
    for (name, part) in [
        ("fp8", "weight_scale"),
        ("nvfp4", "weight_scale_2"),
        ("mxfp8", "weight_scale"),
        ("int4_awq", "weight_scale"),
        ("int8_sq", "weight_scale"),
        ("awq_g64", "qzeros"),
        ("awq_g64", "scales"),
        ("gptq_order", "scales"),
        ("gptq_order", "qzeros"),
        ("ct_packed", "weight_scale"),
        ("ct_packed", "weight_zero_point"),
        ("ct_mixed", "weight_global_scale"),
        ("fp8_blocks", "weight_scale_inv"),
        ("nf4", "weight.absmax"),
    ] {
        let full = format!("{UP}.{part}");
        let model = changed(name, |parts| drop(parts.remove(&full)), |_| {});
        let message = refused(model.path(), Precision::Stored);
        assert!(message.contains(&full) && message.contains("missing"), "{name} {part}: {message}");
    }
}

/// An engine whose tensors were changed is refused by who builds a decoder of it, never a panic.
#[test]
fn damaged_engines_are_named() {
    type Change = fn(&mut Parts);
    let cases: [(&str, Change, &str); 7] = [
        ("gptq_order", |parts| order(parts)[0] = 64, "input_order"),
        ("gptq_order", |parts| order(parts)[..4].fill(0), "input_order"),
        ("gptq_order", |parts| drop(parts.remove("model.layers.0.mlp.up_proj.weight_scale")), "weight_scale"),
        ("nvfp4", |parts| drop(parts.remove("model.layers.0.mlp.up_proj.weight_scale_2")), "weight_scale_2"),
        ("mxfp8", |parts| drop(parts.remove("model.layers.0.mlp.up_proj.weight_scale")), "weight_scale"),
        (
            "awq_g64",
            |parts| parts.get_mut("model.layers.0.mlp.up_proj.weight_zero").unwrap().1.reverse(),
            "weight_zero",
        ),
        (
            "nf4",
            |parts| parts.get_mut("model.layers.0.mlp.up_proj.weight_levels").unwrap().2[0] = 1,
            "weight_levels holds neither nf4's",
        ),
    ];
    fn order(parts: &mut Parts) -> &mut [u8] {
        &mut parts.get_mut("model.layers.0.mlp.up_proj.input_order").unwrap().2
    }
    for (name, change, said) in cases {
        let scratch = tempfile::tempdir().unwrap();
        build(&options(&checkpoint(name), scratch.path(), Precision::Stored)).unwrap();
        let engine = Engine::open(scratch.path()).unwrap();
        let mut tensors = parts(&engine.tensors);
        change(&mut tensors);
        let path = scratch.path().join("changed.safetensors");
        write(&tensors, &path);
        let file = crate::support::tensors(&path);
        let weight = "model.layers.0.mlp.up_proj.weight";
        let shape = match name {
            "gptq_order" | "mxfp8" | "nf4" => (96, 64),
            "nvfp4" => (80, 48),
            _ => (128, 64),
        };
        let error = StoredMatrix::find(&file, weight, shape).err().unwrap().to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
}

/// An engine's file with one more tensor, of ones, behind the others.
fn with_tensor(file: &TensorFile, name: &str, len: usize) -> Vec<u8> {
    let (bytes, start) = (file.as_bytes(), file.data_start());
    let mut header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let end = bytes.len() - start;
    header[name] = json!({"dtype": "F32", "shape": [len], "data_offsets": [end, end + 4 * len]});
    let mut header = header.to_string();
    while !(header.len() + 8).is_multiple_of(4096) {
        header.push(' ');
    }
    let ones = vec![1.0_f32; len].into_iter().flat_map(f32::to_le_bytes).collect();
    [(header.len() as u64).to_le_bytes().to_vec(), header.into_bytes(), bytes[start..].to_vec(), ones]
        .concat()
}

/// Rows of the embedding are looked up, and those of experts share their inputs: nothing changes these inputs.
#[test]
fn changes_of_inputs_are_refused_where_nothing_makes_them() {
    let cases = [
        ("qwen2", "model.embed_tokens.pre_quant_scale", 64, true),
        ("qwen3_moe", "model.layers.1.mlp.experts.gate_proj.pre_quant_scale", 48, true),
        ("qwen2", "model.layers.1.mlp.up_proj.pre_quant_scale", 64, false),
    ];
    for (model, name, len, is_refused) in cases {
        let scratch = tempfile::tempdir().unwrap();
        build(&options(&reference(&format!("models/{model}")), scratch.path(), Precision::F16)).unwrap();
        let engine = Engine::open(scratch.path()).unwrap();
        let weight = name.replace("pre_quant_scale", "weight");
        assert!(engine.tensors.get(&weight).is_some(), "{weight}");
        let file = TensorFile::parse(std::sync::Arc::new(with_tensor(&engine.tensors, name, len))).unwrap();
        let cpu = Cpu::new(Kernels::detect(), 1).unwrap();
        let error = Decoder::new(cpu, &engine.config, &file).err().map(|error| error.to_string());
        assert_eq!(error.is_some(), is_refused, "{name}: {error:?}");
        assert!(error.is_none_or(|error| error.contains(&weight)), "{name}");
    }
}
