//! What is no number stays none: NaN and infinities of an adapter, or of a product that overflows, reach the logits
//! of their own request on every processor, and no other request's.

use std::sync::Arc;

use crate::support::panels::matmul;
use crate::support::{build_engine, limits, reference, tables, tensors};
use half::f16;
use jetspool::device::Cpu;
use jetspool::device::cpu::Lora;
use jetspool::format::{Adapter, Bytes, TensorFile};
use jetspool::kernels::Kernels;
use jetspool::kernels::attention::{AttendTask, CacheValues, HeadCache, Query, Weight, scratch_len};
use jetspool::kernels::matrix::{GroupScales, Matrix, Values};
use jetspool::model::{BLOCK_LEN, Decoder, LogitRows, Segment};
use jetspool::numbers::{Precision, code_i8};
use jetspool::store::Engine;

const BAD: [f32; 4] = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// The same bits, or two NaN.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
}

/// The results of all tables, which must be the same.
fn both(what: &str, run: impl Fn(&Kernels) -> Vec<f32>) -> Vec<f32> {
    let scalar = run(&Kernels::scalar());
    for kernels in tables() {
        let found = run(&kernels);
        assert!(same(&scalar, &found), "{what}: scalar {scalar:?}, {} {found:?}", kernels.name);
    }
    scalar
}

#[test]
fn attention_hides_no_bad_score() {
    let (n_heads, head_dim, n) = (2, 16, 21);
    let numbers = |salt: usize, n: usize| -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + salt) % 64) as f32 / 32.0 - 1.0).collect()
    };
    // Two blocks of 16 positions, keys with the positions side by side.
    let stored = |cache: &[f32]| -> Vec<f32> {
        let mut blocks = vec![0.0; 2 * 2 * 16 * head_dim];
        for (i, &x) in cache.iter().enumerate() {
            let (part, position, d) = (i / (n * head_dim), i / head_dim % n, i % head_dim);
            let block = (position / 16 * 2 + part) * 16 * head_dim;
            blocks[block + if part == 0 { d * 16 + position % 16 } else { position % 16 * head_dim + d }] = x;
        }
        blocks
    };
    let run = |q: &[f32], cache: &[f32]| {
        let cache = stored(cache);
        let halves: Vec<f16> = cache.iter().map(|&x| f16::from_f32(x)).collect();
        [CacheValues::F32(&cache), CacheValues::F16(&halves)].map(|values| {
            both("attention", |kernels| {
                let mut out = vec![0.0; n_heads * head_dim];
                let queries: Vec<Query> = (0..n_heads)
                    .map(|head| Query {
                        q: q[head * head_dim..].as_ptr(),
                        start: 0,
                        end: n,
                        out: out[head * head_dim..].as_mut_ptr(),
                    })
                    .collect();
                let mut weights = [Weight::default(); 2];
                let mut task = AttendTask {
                    queries: &queries,
                    head_dim,
                    cache: HeadCache {
                        values,
                        blocks: &[0, 1],
                        block_stride: 2 * 16 * head_dim,
                        key_offset: 0,
                        value_offset: 16 * head_dim,
                        head_stride: head_dim,
                    },
                    scale: 0.25,
                    scratch: &mut vec![0.0; scratch_len(queries.len(), head_dim)],
                    weights: &mut weights,
                };
                // SAFETY: two blocks, and room for each query's output.
                unsafe { (kernels.attend)(&mut task) };
                for (out, weight) in out.chunks_exact_mut(head_dim).zip(weights) {
                    out.iter_mut().for_each(|x| *x /= weight.sum);
                }
                out
            })
        })
    };
    let (q, cache) = (numbers(1, n_heads * head_dim), numbers(2, 2 * n * head_dim));
    let good = run(&q, &cache);
    assert!(good.iter().flatten().all(|x| x.is_finite()));
    for bad in BAD {
        // The first head's query: the second head is as it was.
        let mut bad_q = q.clone();
        bad_q[5] = bad;
        for (found, good) in run(&bad_q, &cache).iter().zip(&good) {
            let (first, second) = found.split_at(head_dim);
            assert!(first.iter().all(|x| x.is_nan()) && same(second, &good[head_dim..]), "query {bad}");
        }
        // A key at each place of a vector, and in the last one, which is not full.
        for position in [0, 3, 7, 8, 15, 16, n - 1] {
            let mut keys = cache.clone();
            keys[position * head_dim + 2] = bad;
            let all_nan = run(&q, &keys).iter().flatten().all(|x| x.is_nan());
            assert!(all_nan, "key {bad} at {position}");
            let mut values = cache.clone();
            values[(n + position) * head_dim + 2] = bad;
            for (found, good) in run(&q, &values).iter().zip(&good) {
                for (i, (found, good)) in found.iter().zip(good).enumerate() {
                    let is_right = if i % head_dim == 2 {
                        !found.is_finite()
                    } else {
                        found.to_bits() == good.to_bits()
                    };
                    assert!(is_right, "value {bad} at {position}: {found} at {i}");
                }
            }
        }
    }
    // Finite factors whose product is not: once plus, once minus infinity.
    for sign in [1.0, -1.0] {
        let (mut q, mut keys) = (q.clone(), cache.clone());
        q[4] = 1e20;
        keys[9 * head_dim + 4] = sign * 1e20;
        let [f32, f16] = run(&q, &keys);
        assert!(f32[..head_dim].iter().all(|x| x.is_nan()), "{sign}");
        assert!(f16[..head_dim].iter().all(|x| x.is_nan()), "{sign}");
    }
    // Large is not infinite: the softmax of such scores is one and zeros.
    let (mut q, mut keys) = (vec![0.0; n_heads * head_dim], vec![0.0; 2 * n * head_dim]);
    q[0] = 1e18;
    keys[3 * head_dim] = 6e4;
    keys[(n + 3) * head_dim..(n + 4) * head_dim].fill(2.0);
    assert!(run(&q, &keys).iter().all(|out| out[..head_dim].iter().all(|&x| x == 2.0)));
}

#[test]
fn row_operations_hide_nothing() {
    for n in [8, 13, 64] {
        let x: Vec<f32> = (0..n).map(|i| i as f32 / 8.0 - 0.6).collect();
        let weight = vec![0.5; n];
        let norm = |x: &[f32]| {
            both("rms_norm", |kernels| {
                let mut y = vec![0.0; n];
                // SAFETY: both have n elements.
                unsafe { (kernels.rms_norm)(x.as_ptr(), &weight, 1e-5, y.as_mut_ptr()) };
                y
            })
        };
        assert!(norm(&x).iter().all(|y| y.is_finite()));
        for bad in BAD.into_iter().chain([1e20, -3e38]) {
            for at in [0, n / 2, n - 1] {
                let mut x = x.clone();
                x[at] = bad;
                assert!(norm(&x).iter().all(|y| y.is_nan()), "rms_norm {n}: {bad} at {at}");
            }
        }
        let large: Vec<f32> = x.iter().map(|x| x * 1e17).collect();
        assert!(norm(&large).iter().all(|y| y.is_finite()));
    }
    type Gate = fn(&Kernels, &mut [f32], &[f32]);
    let gates: [(&str, Gate); 2] = [
        // SAFETY: all lengths are multiples of 8.
        ("silu", |kernels, gate, up| unsafe { (kernels.silu_mul)(gate, up) }),
        // SAFETY: as above.
        ("gelu", |kernels, gate, up| unsafe { (kernels.gelu_mul)(gate, up) }),
    ];
    for (name, kernel) in gates {
        let run = |gate: &[f32], up: &[f32]| {
            both(name, |kernels| {
                let mut gate = gate.to_vec();
                kernel(kernels, &mut gate, up);
                gate
            })
        };
        let plain = [0.5_f32, -2.0, 90.0, -90.0, 0.0, 1e4, -1e4, 3.0];
        let good = run(&plain, &plain);
        assert!(good.iter().all(|y| y.is_finite()), "{name} {good:?}");
        for bad in BAD {
            for at in 0..8 {
                let mut changed = plain;
                changed[at] = bad;
                for found in [run(&changed, &plain), run(&plain, &changed)] {
                    for i in 0..8 {
                        let is_right = if i == at {
                            !found[i].is_finite()
                        } else {
                            found[i].to_bits() == good[i].to_bits()
                        };
                        assert!(is_right, "{name} {bad} at {at}: {found:?}");
                    }
                }
            }
        }
    }
    let narrowed = |x: f32| {
        let halves = both("narrow", |kernels| {
            let mut to = [f16::ZERO; 8];
            // SAFETY: both have 8 elements.
            unsafe { (kernels.narrow)(&[x; 8], &mut to) };
            to.map(f16::to_f32).to_vec()
        });
        assert!(halves.iter().all(|half| same(&[*half], &halves[..1])));
        halves[0]
    };
    assert!(narrowed(f32::NAN).is_nan() && narrowed(-f32::NAN).is_nan());
    assert_eq!([1e6, -1e6, f32::INFINITY].map(narrowed), [f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY]);
}

/// Of every kind of weight, those that are integers included.
#[test]
fn a_bad_activation_makes_its_whole_row_bad() {
    let (n_outputs, stride, n_rows) = (5, 64, 6);
    // The rows that fill a tile up are never looked at.
    let f32s: Vec<f32> = (0..16 * stride).map(|i| (i % 13) as f32 - 6.0).collect();
    let f16s: Vec<f16> = f32s.iter().map(|&x| f16::from_f32(x)).collect();
    let i8s: Vec<i8> = f32s.iter().map(|&x| code_i8(x)).collect();
    let bytes: Vec<u8> = (0..0x70).cycle().take(16 * stride).collect();
    let (scale, halves) = (vec![0.5; 16], vec![f16::from_f32(0.5); 16 * 2]);
    let groups = vec![0.5; 16 * 2];
    let (exponents, tenths) = (vec![120_u8; 16 * 2], vec![0x30_u8; 16 * 4]);
    let packed = &bytes[..16 * stride / 2];
    let kinds = [
        Values::F32(&f32s),
        Values::F16(&f16s),
        Values::I8 { q: &i8s, scale: &scale },
        Values::I8Groups { q: &i8s, scale: &groups, zero: Some(&groups), group: 32 },
        Values::I4 { q: packed, scale: GroupScales::F16(&halves), zero: None, group: 32 },
        Values::Fp8 { q: &bytes, scale: &scale },
        Values::Fp8Groups { q: &bytes, scale: &groups, group: 32 },
        Values::Mxfp8 { q: &bytes, scale: &exponents },
        Values::Nvfp4 { q: packed, scale: &tenths, row_scale: &scale },
        Values::Levels { q: packed, levels: &f32s[..16], scale: &groups, group: 32 },
    ];
    for (kind_idx, values) in kinds.into_iter().enumerate() {
        let w = Matrix::new(values, n_outputs, stride).unwrap();
        let run = |x: &[f32]| both(&format!("kind {kind_idx}"), |kernels| matmul(kernels, x, w, None));
        let x: Vec<f32> = (0..n_rows * stride).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect();
        let good = run(&x);
        for bad in BAD {
            for (row, k) in [(0, 0), (1, 17), (3, 63), (5, 32)] {
                let mut x = x.clone();
                x[row * stride + k] = bad;
                let found = run(&x);
                for (i, (found, good)) in found.iter().zip(&good).enumerate() {
                    let is_right = match i / n_outputs == row {
                        true => !found.is_finite(),
                        false => found.to_bits() == good.to_bits(),
                    };
                    assert!(is_right, "kind {kind_idx}: {bad} in row {row}, {found} at {i}");
                }
            }
        }
    }
}

/// How an adapter is broken; the rest of it is zeros.
#[derive(Debug, Clone, Copy)]
enum Break {
    /// One element of A or B.
    Element(&'static str, f32),
    /// All elements of both, and the factor of the request.
    All(f32, f32),
}

/// An adapter that changes one module only, as [`Break`] says; none if the file has not the module.
fn broken(file: &TensorFile, module: &str, how: Break) -> Option<Arc<Vec<u8>>> {
    let mut bytes = file.as_bytes().to_vec();
    bytes[file.data_start()..].fill(0);
    let mut put = |half: &str, value: f32, is_all: bool| {
        let data = file.get(&format!("{module}.lora_{half}.weight"))?;
        let start = data.data().as_ptr() as usize - file.as_bytes().as_ptr() as usize;
        let places = match is_all {
            true => 0..data.n_elements(),
            false => data.n_elements() / 2..data.n_elements() / 2 + 1,
        };
        for place in places {
            bytes[start + 2 * place..][..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        }
        Some(())
    };
    match how {
        Break::Element(half, value) => put(half, value, false)?,
        Break::All(value, _) => {
            put("A", value, true)?;
            put("B", value, true)?;
        }
    }
    Some(Arc::new(bytes))
}

/// A reference model on one table of kernels.
struct Model {
    decoder: Decoder<Cpu>,
}

impl Model {
    fn lora(&self, file: TensorFile) -> Arc<Lora> {
        let adapter = Adapter::bind(file, self.decoder.architecture(), limits().max_lora_rank).unwrap();
        Arc::new(self.decoder.lora(&adapter).unwrap())
    }

    /// Last logits of three requests in one batch, after a prompt and one more token: the first has the adapter.
    fn logits(&self, lora: Option<(&Arc<Lora>, f32)>, neighbour: &Arc<Lora>) -> Vec<Vec<f32>> {
        let adapters = [lora, None, Some((neighbour, 1.0))];
        let mut cache = self.decoder.cache(3).unwrap();
        let mut workspace = self.decoder.workspace();
        let tokens: Vec<u32> = (0..12).map(|i| (i * 29 + 3) % 150).collect();
        assert!(tokens.len() <= BLOCK_LEN);
        let blocks = [[0], [1], [2]];
        let mut logits = Vec::new();
        for part in [0..11, 11..12] {
            let segments: Vec<Segment<'_, Cpu>> = (0..3)
                .map(|i| Segment {
                    tokens: &tokens[part.clone()],
                    start: part.start,
                    blocks: &blocks[i],
                    loras: adapters[i].into_iter().collect(),
                    logits: LogitRows::Last,
                })
                .collect();
            self.decoder.forward(&segments, &mut cache, &mut workspace).unwrap();
            logits = (0..3).map(|i| self.decoder.logits(&workspace, i).to_vec()).collect();
        }
        logits
    }
}

fn check_model(model: &str, adapter: &str, neighbour: &str, modules: &[&str], precision: Precision) {
    let folder = tempfile::tempdir().unwrap();
    build_engine(&reference(&format!("models/{model}")), folder.path().join("engine").as_path(), precision);
    let engine = Engine::open(&folder.path().join("engine")).unwrap();
    let models = [Kernels::detect(), Kernels::scalar()].map(|kernels| {
        let cpu = Cpu::new(kernels, 2).unwrap();
        Model { decoder: Decoder::new(cpu, &engine.config, &engine.tensors).unwrap() }
    });
    let file = tensors(&reference(&format!("process/{model}/{adapter}.safetensors")));
    let other = tensors(&reference(&format!("process/{model}/{neighbour}.safetensors")));
    let neighbours = models.each_ref().map(|model| model.lora(other.clone()));
    let wanted = models[0].logits(None, &neighbours[0]);
    assert!(wanted.iter().flatten().all(|logit| logit.is_finite()));
    let is_narrow = precision != Precision::F32;
    let breaks = BAD.map(|bad| [Break::Element("A", bad), Break::Element("B", bad)]);
    let overflows = [Break::All(6e4, 1e38), Break::All(-6e4, 1e30), Break::All(6e4, 1.0)];
    for module in modules {
        for how in breaks.into_iter().flatten().chain(overflows) {
            let bytes = broken(&file, module, how).unwrap_or_else(|| panic!("{adapter} has no {module}"));
            let scale = if let Break::All(_, scale) = how { scale } else { 1.0 };
            let found = [0, 1].map(|i| {
                let lora = models[i].lora(TensorFile::parse(Arc::clone(&bytes) as Bytes).unwrap());
                models[i].logits(Some((&lora, scale)), &neighbours[i])
            });
            let place = format!("{model} {} {module} {how:?}", precision.name());
            for (row, (vector, scalar)) in found[0].iter().zip(&found[1]).enumerate().take(3) {
                assert!(same(vector, scalar), "{place}: row {row} is not scalar's");
            }
            let is_finite = found[0][0].iter().all(|logit| logit.is_finite());
            // Without a factor these are large numbers, which only the cache of f16 cannot hold; gemma's keys are
            // normalized before they come there.
            let is_cached = module.ends_with("v_proj") || module.ends_with("k_proj") && model != "gemma3";
            let may_be_finite = matches!(how, Break::All(_, 1.0)) && !(is_narrow && is_cached);
            assert!(!is_finite || may_be_finite, "{place}: finite logits");
            assert!(same(&found[0][1], &wanted[1]) && same(&found[0][2], &wanted[2]), "{place}: neighbours");
        }
    }
}

const PRECISIONS: [Precision; 4] = [Precision::F32, Precision::F16, Precision::Int8, Precision::Int4];

#[test]
fn bad_adapters_and_overflows_reach_the_logits() {
    let modules = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.k_proj",
        "model.layers.1.self_attn.v_proj",
        "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.gate_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.1.mlp.down_proj",
    ];
    for precision in PRECISIONS {
        check_model("qwen2", "all_r8", "attention_r4", &modules, precision);
    }
}

/// Norms on heads and on outputs, windows, routers.
#[test]
fn other_families_hide_nothing_either() {
    let gemma = [
        "model.layers.3.self_attn.q_proj",
        "model.layers.3.self_attn.k_proj",
        "model.layers.3.self_attn.v_proj",
        "model.layers.3.self_attn.o_proj",
        "model.layers.3.mlp.gate_proj",
        "model.layers.3.mlp.up_proj",
        "model.layers.3.mlp.down_proj",
    ];
    let phi = ["model.layers.1.self_attn.qkv_proj", "model.layers.1.mlp.gate_up_proj"];
    let router = ["model.layers.2.mlp.gate"];
    for precision in [Precision::F32, Precision::Int4] {
        check_model("gemma3", "all_r6", "attention_r4", &gemma, precision);
        check_model("phi3_short", "fused_all", "fused_all", &phi, precision);
        check_model("qwen3_moe", "experts_r4", "attention_r4", &router, precision);
    }
}
