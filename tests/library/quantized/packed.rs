//! Packed codes, bit by bit, and types of scales.

use crate::support::tensors;
use half::f16;
use jetspool::format::StoredMatrix;
use jetspool::numbers::Precision;
use jetspool::store::Engine;
use jetspool::tools::build;
use safetensors::Dtype;

use super::support::{Parts, changed, checkpoint, options};

#[test]
fn codes_scales_and_zeros_are_the_checkpoints_own() {
    let scratch = tempfile::tempdir().unwrap();
    build(&options(&checkpoint("awq_g64"), scratch.path(), Precision::Stored)).unwrap();
    let engine = Engine::open(scratch.path()).unwrap();
    let source = tensors(&checkpoint("awq_g64").join("model.safetensors"));
    let module = "model.layers.0.mlp.up_proj";
    let (n, k) = (128, 64);
    let matrix = StoredMatrix::find(&engine.tensors, &format!("{module}.weight"), (n, k)).unwrap();
    let scales: Vec<u8> = source.require(&format!("{module}.scales")).unwrap().data().to_vec();
    // One group: f16 `[1, n]` there, and sixteen by sixteen here.
    assert_eq!(matrix.scale.unwrap().data(), scales);
    let words = |part: &str| -> Vec<u32> {
        let tensor = source.require(&format!("{module}.{part}")).unwrap();
        tensor.data().chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    // AutoAWQ's order, written out: output 8 c + i lies at these bits of word c.
    let shift = [0, 16, 4, 20, 8, 24, 12, 28];
    let (qweight, qzeros) = (words("qweight"), words("qzeros"));
    for row in 0..n {
        let at = |words: &[u32], line: usize| words[line * (n / 8) + row / 8] >> shift[row % 8] & 15;
        assert_eq!(u32::from(matrix.zero.as_ref().unwrap().data()[row]), at(&qzeros, 0));
        for column in 0..k {
            let byte =
                matrix.values.data()[(row / 16 * (k / 8) + column / 8) * 64 + row % 16 * 4 + column % 4];
            let code = if column % 8 < 4 { byte & 15 } else { byte >> 4 };
            assert_eq!(u32::from(code), at(&qweight, column), "{row} {column}");
        }
    }
}

#[test]
fn zero_biases_and_bfloat16_scales_are_taken() {
    let scratch = tempfile::tempdir().unwrap();
    let to_bf16 = |parts: &mut Parts| {
        parts.insert("model.layers.0.self_attn.o_proj.bias".to_owned(), (Dtype::F16, vec![64], vec![0; 128]));
        let scales = parts.iter_mut().filter(|(name, _)| name.ends_with(".scales"));
        for (_, (dtype, _, data)) in scales {
            *dtype = Dtype::BF16;
            for pair in data.chunks_mut(2) {
                let value = f16::from_le_bytes([pair[0], pair[1]]).to_f32();
                pair.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
            }
        }
    };
    let model = changed("awq_g64", to_bf16, |_| {});
    let report = build(&options(model.path(), scratch.path(), Precision::Stored)).unwrap();
    assert!(!report.warnings.join(" ").contains("not used"), "{:?}", report.warnings);
    let engine = Engine::open(scratch.path()).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight_scale";
    assert_eq!(engine.tensors.require(name).unwrap().dtype(), Dtype::F32);
}
