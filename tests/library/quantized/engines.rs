//! What stands where in engines of quantized checkpoints.

use jetspool::numbers::Precision;
use jetspool::numbers::kind::Stored;
use jetspool::store::Engine;
use jetspool::tools::build;
use safetensors::Dtype;

use super::support::{checkpoint, options};

/// What stands where in the engine, by type and shape, and how many bytes a matrix takes.
#[test]
fn engines_are_no_larger_than_what_was_quantized() {
    struct Case {
        name: &'static str,
        module: &'static str,
        /// Without the module's name.
        tensors: &'static [(&'static str, Dtype, &'static [usize])],
        kinds: &'static str,
    }
    let cases = [
        Case {
            name: "fp8",
            module: "mlp.down_proj",
            tensors: &[("weight", Dtype::F8_E4M3, &[5, 128, 16]), ("weight_scale", Dtype::F32, &[5, 16])],
            kinds: "8 fp8, 1 int8",
        },
        Case {
            name: "int4_awq",
            module: "self_attn.k_proj",
            tensors: &[
                ("bias", Dtype::F32, &[64]),
                ("pre_quant_scale", Dtype::F32, &[128]),
                ("weight", Dtype::U8, &[4, 16, 16, 4]),
                ("weight_scale", Dtype::F32, &[4, 1, 16]),
            ],
            kinds: "7 int4 in groups of 128, 1 int8",
        },
        Case {
            name: "nvfp4",
            module: "mlp.down_proj",
            tensors: &[
                ("weight", Dtype::F4, &[3, 12, 16, 8]),
                ("weight_scale", Dtype::F8_E4M3, &[3, 6, 16]),
                ("weight_scale_2", Dtype::F32, &[3, 16]),
            ],
            kinds: "7 nvfp4, 1 int8",
        },
        Case {
            name: "int8_sq",
            module: "mlp.up_proj",
            tensors: &[
                ("pre_quant_scale", Dtype::F32, &[64]),
                ("weight", Dtype::I8, &[6, 16, 16, 4]),
                ("weight_scale", Dtype::F32, &[6, 16]),
            ],
            kinds: "9 int8",
        },
        Case {
            name: "mxfp8",
            module: "mlp.up_proj",
            tensors: &[
                ("weight", Dtype::F8_E4M3, &[6, 64, 16]),
                ("weight_scale", Dtype::F8_E8M0, &[6, 2, 16]),
            ],
            kinds: "7 mxfp8, 1 int8",
        },
        Case {
            name: "mixed",
            module: "mlp.up_proj",
            tensors: &[
                ("weight", Dtype::F4, &[8, 8, 16, 8]),
                ("weight_scale", Dtype::F8_E4M3, &[8, 4, 16]),
                ("weight_scale_2", Dtype::F32, &[8, 16]),
            ],
            kinds: "4 int4 in groups of 64, 4 fp8, 3 f16, 3 nvfp4, 2 int8",
        },
        Case {
            name: "awq_g128",
            module: "self_attn.q_proj",
            tensors: &[
                ("bias", Dtype::F32, &[128]),
                ("weight", Dtype::U8, &[8, 16, 16, 4]),
                ("weight_scale", Dtype::F16, &[8, 1, 16]),
                ("weight_zero", Dtype::U8, &[8, 1, 16]),
            ],
            kinds: "6 int4 in groups of 128 with zeros, 1 f16, 1 int8",
        },
        Case {
            name: "gptq_order",
            module: "mlp.down_proj",
            tensors: &[
                ("input_order", Dtype::U32, &[96]),
                ("weight", Dtype::U8, &[4, 12, 16, 4]),
                ("weight_scale", Dtype::F16, &[4, 3, 16]),
                ("weight_zero", Dtype::U8, &[4, 3, 16]),
            ],
            kinds: "7 int4 in groups of 32 with zeros, 2 int8",
        },
        Case {
            name: "ct_packed",
            module: "self_attn.v_proj",
            tensors: &[
                ("input_order", Dtype::U32, &[64]),
                ("weight", Dtype::U8, &[2, 8, 16, 4]),
                ("weight_scale", Dtype::F32, &[2, 2, 16]),
                ("weight_zero", Dtype::U8, &[2, 2, 16]),
            ],
            kinds: "2 int8, 1 int8 in groups of 32, 1 int8 in groups of 32 with zeros, 1 int8 in groups of 64, \
                    1 int4 in groups of 32, 1 int4 in groups of 32 with zeros, 1 int4 in groups of 64, \
                    1 int4 in groups of 64 with zeros",
        },
        Case {
            name: "ct_packed",
            module: "mlp.up_proj",
            tensors: &[
                ("input_order", Dtype::U32, &[64]),
                ("weight", Dtype::I8, &[4, 16, 16, 4]),
                ("weight_scale", Dtype::F32, &[4, 2, 16]),
                ("weight_zero", Dtype::F32, &[4, 2, 16]),
            ],
            kinds: "2 int8, 1 int8 in groups of 32, 1 int8 in groups of 32 with zeros, 1 int8 in groups of 64, \
                    1 int4 in groups of 32, 1 int4 in groups of 32 with zeros, 1 int4 in groups of 64, \
                    1 int4 in groups of 64 with zeros",
        },
        Case {
            name: "ct_float",
            module: "self_attn.o_proj",
            tensors: &[("weight", Dtype::F8_E4M3, &[4, 64, 16]), ("weight_scale", Dtype::F32, &[4, 2, 16])],
            kinds: "5 fp8, 2 int8, 1 f16, 1 fp8 in groups of 32",
        },
        Case {
            name: "ct_mixed",
            module: "mlp.down_proj",
            tensors: &[
                ("weight", Dtype::F4, &[4, 12, 16, 8]),
                ("weight_scale", Dtype::F8_E4M3, &[4, 6, 16]),
                ("weight_scale_2", Dtype::F32, &[4, 16]),
            ],
            kinds: "6 int8, 3 nvfp4",
        },
        Case {
            name: "fp8_blocks",
            module: "mlp.down_proj",
            tensors: &[("weight", Dtype::F8_E4M3, &[5, 128, 16]), ("weight_scale", Dtype::F32, &[5, 2, 16])],
            kinds: "6 fp8 in groups of 32, 1 int8, 1 fp8 in groups of 64",
        },
        Case {
            name: "gptq_8bit",
            module: "mlp.down_proj",
            tensors: &[
                ("input_order", Dtype::U32, &[64]),
                ("weight", Dtype::I8, &[4, 16, 16, 4]),
                ("weight_scale", Dtype::F32, &[4, 2, 16]),
                ("weight_zero", Dtype::F32, &[4, 2, 16]),
            ],
            kinds: "7 int8 in groups of 32 with zeros, 2 int8",
        },
        Case {
            name: "auto_round",
            module: "mlp.gate_proj",
            tensors: &[
                ("weight", Dtype::I8, &[4, 16, 16, 4]),
                ("weight_scale", Dtype::F32, &[4, 2, 16]),
                ("weight_zero", Dtype::F32, &[4, 2, 16]),
            ],
            kinds: "4 int4 in groups of 32 with zeros, 2 int8, 2 int8 in groups of 32 with zeros, 1 f16",
        },
        Case {
            name: "auto_round_gptq",
            module: "mlp.gate_proj",
            tensors: &[("weight", Dtype::U8, &[4, 8, 16, 4]), ("weight_scale", Dtype::F16, &[4, 2, 16])],
            kinds: "7 int4 in groups of 32, 2 int8",
        },
        Case {
            name: "nf4",
            module: "mlp.gate_proj",
            tensors: &[
                ("weight", Dtype::U8, &[6, 8, 16, 4]),
                ("weight_levels", Dtype::F32, &[16]),
                ("weight_scale", Dtype::F32, &[6, 1, 16]),
            ],
            kinds: "6 nf4 in groups of 64, 2 int8, 1 nf4 in groups of 32",
        },
        Case {
            name: "fp4",
            module: "mlp.down_proj",
            tensors: &[("weight", Dtype::F16, &[4, 96, 16])],
            kinds: "6 fp4 in groups of 64, 2 int8, 1 f16",
        },
        Case {
            name: "gptq_symmetric",
            module: "mlp.gate_proj",
            tensors: &[("weight", Dtype::U8, &[8, 16, 16, 4]), ("weight_scale", Dtype::F16, &[8, 1, 16])],
            kinds: "7 int4 in groups of 128, 1 int8",
        },
        Case {
            name: "gptq_row",
            module: "mlp.down_proj",
            tensors: &[
                ("weight", Dtype::U8, &[6, 20, 16, 4]),
                ("weight_scale", Dtype::F16, &[6, 1, 16]),
                ("weight_zero", Dtype::U8, &[6, 1, 16]),
            ],
            kinds: "6 int4 in groups of 96 with zeros, 2 int8, 1 int4 in groups of 160 with zeros",
        },
    ];
    for Case { name, module, tensors, kinds } in cases {
        let scratch = tempfile::tempdir().unwrap();
        let report = build(&options(&checkpoint(name), scratch.path(), Precision::Stored)).unwrap();
        assert_eq!(report.kinds, kinds, "{name}");
        let engine = Engine::open(scratch.path()).unwrap();
        let prefix = format!("model.layers.0.{module}.");
        let found: Vec<Stored> = engine
            .tensors
            .names()
            .filter_map(|full| {
                let tensor = engine.tensors.get(full)?;
                let name = full.strip_prefix(&prefix)?.to_owned();
                Some(Stored { name, dtype: tensor.dtype(), shape: tensor.shape().to_vec() })
            })
            .collect();
        let wanted: Vec<Stored> = tensors
            .iter()
            .map(|(name, dtype, shape)| Stored {
                name: (*name).to_owned(),
                dtype: *dtype,
                shape: shape.to_vec(),
            })
            .collect();
        assert_eq!(found, wanted, "{name}");
        let text = jetspool::tools::inspect(scratch.path()).unwrap();
        // Long lines are cut.
        assert!(text.contains(&kinds[..kinds.len().min(90)]), "{name}: {text}");
    }
}
