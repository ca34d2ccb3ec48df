//! `merge-lora` against PEFT: merged tensors within one unit of the written type, logits of the merged model
//! equal to PEFT's with the adapter unmerged, and refusals by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Built, ids, models, reference, tensors};
use half::{bf16, f16};
use jetspool::format::{Tensor, TensorFile};
use jetspool::numbers::Precision;
use jetspool::store::WeightFiles;
use jetspool::tools::build::Progress;
use jetspool::tools::{MergeOptions, MergeReport, MergeType, ToolError, merge_lora};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// Every so many elements of a changed tensor are in the references of the models.
const STRIDE: usize = 13;

fn options(model: &Path, lora: &Path, output: &Path) -> MergeOptions {
    MergeOptions {
        model_dir: model.to_owned(),
        lora_dir: lora.to_owned(),
        output_dir: output.to_owned(),
        element: MergeType::F16,
        n_threads: 2,
        progress: Progress::Quiet,
        home: None,
    }
}

fn merge(model: &Path, lora: &Path, output: &Path) -> Result<MergeReport, ToolError> {
    merge_lora(&options(model, lora, output))
}

fn merge_type(name: &str) -> (MergeType, Dtype) {
    match name {
        "float16" => (MergeType::F16, Dtype::F16),
        "bfloat16" => (MergeType::Bf16, Dtype::BF16),
        "float32" => (MergeType::F32, Dtype::F32),
        other => panic!("{other}"),
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let twos = || tensor.data().as_chunks::<2>().0.iter();
    match tensor.dtype() {
        Dtype::F32 => tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => twos().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => twos().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

fn rounded(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_f32(value).to_f32(),
        Dtype::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// The distance from a magnitude to the next one of the type.
fn unit(value: f32, dtype: Dtype) -> f32 {
    let (bits, least): (f32, f32) = match dtype {
        Dtype::F16 => (10.0, -24.0),
        Dtype::BF16 => (7.0, -133.0),
        _ => (23.0, -149.0),
    };
    let exponent = if value == 0.0 { -149.0 } else { value.abs().log2().floor() };
    (exponent - bits).max(least).exp2()
}

/// The models that PEFT's references are there for: those whose tensors transformers names as their files do.
fn merged_models() -> Vec<String> {
    let has_reference = |model: &String| reference(&format!("merge/{model}.safetensors")).exists();
    let found: Vec<String> = models().into_keys().filter(has_reference).collect();
    assert!(found.len() >= 15, "{found:?}");
    found
}

/// The cases of one model: adapter, type, and the kept elements by tensor.
type Cases = BTreeMap<(String, String), BTreeMap<String, Vec<f32>>>;

fn cases(file: &TensorFile) -> Cases {
    let mut cases = Cases::new();
    for name in file.names().filter(|name| name.contains('@')) {
        let (case, tensor) = name.split_once('/').unwrap();
        let (adapter, dtype) = case.split_once('@').unwrap();
        let values = floats(&file.get(name).unwrap());
        let case = cases.entry((adapter.to_owned(), dtype.to_owned())).or_default();
        case.insert(tensor.to_owned(), values);
    }
    cases
}

/// Compares every tensor; returns how many of the changed elements are not PEFT's to the bit, and of how many.
fn compare(
    base: &WeightFiles,
    merged: &WeightFiles,
    dtype: Dtype,
    changed: &BTreeMap<String, Vec<f32>>,
    stride: usize,
) -> (usize, usize) {
    let (mut n_other, mut n_all) = (0, 0);
    let mut names: BTreeSet<&str> = base.names().chain(changed.keys().map(String::as_str)).collect();
    // A head that was tied comes from the table as it was.
    let is_tied = base.tensor("lm_head.weight").is_none();
    if is_tied && changed.contains_key("model.embed_tokens.weight") {
        names.insert("lm_head.weight");
    }
    assert_eq!(merged.names().collect::<BTreeSet<_>>(), names);
    for name in names {
        let tensor = merged.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), dtype, "{name}");
        let found = floats(&tensor);
        let is_new = is_tied && name == "lm_head.weight";
        let source = base.tensor(if is_new { "model.embed_tokens.weight" } else { name });
        if let Some(source) = &source {
            assert_eq!(source.shape(), tensor.shape(), "{name}");
        }
        let Some(wanted) = changed.get(name) else {
            let source = floats(&source.unwrap());
            let is_same = |(found, source): (&f32, &f32)| *found == rounded(*source, dtype);
            assert!(found.iter().zip(&source).all(is_same), "{name} is not the base's");
            continue;
        };
        assert_eq!(found.len().div_ceil(stride), wanted.len(), "{name}");
        // An f32 sum has no bits to spare: its error is a few units of its largest term, in torch too.
        let terms = source.filter(|_| dtype == Dtype::F32).map(|source| floats(&source));
        for (at, (found, wanted)) in found.iter().step_by(stride).zip(wanted).enumerate() {
            n_all += 1;
            n_other += usize::from(found != wanted);
            let term = terms.as_ref().map_or(0.0, |terms| terms[at * stride].abs() * 2.0);
            let bound = unit(wanted.abs().max(term), dtype) * if dtype == Dtype::F32 { 4.0 } else { 1.0 };
            assert!((found - wanted).abs() <= bound, "{name} {at}: {found} wanted {wanted}");
        }
    }
    (n_other, n_all)
}

#[test]
fn merged_tensors_equal_peft() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut n_other, mut n_all, mut n_cases) = (0, 0, 0);
    for model in &merged_models() {
        let directory = reference(&format!("models/{model}"));
        let base = WeightFiles::open(&directory).unwrap();
        for ((adapter, type_name), changed) in
            cases(&tensors(&reference(&format!("merge/{model}.safetensors"))))
        {
            println!("{model} {adapter} {type_name}");
            let output = scratch.path().join(format!("{model}-{adapter}-{type_name}"));
            let (element, dtype) = merge_type(&type_name);
            let lora = directory.join("adapters").join(&adapter);
            let report =
                merge_lora(&MergeOptions { element, ..options(&directory, &lora, &output) }).unwrap();
            let merged = WeightFiles::open(&output).unwrap();
            let (other, all) = compare(&base, &merged, dtype, &changed, STRIDE);
            if dtype != Dtype::F32 {
                n_other += other;
                n_all += all;
            }
            n_cases += 1;
            assert_eq!(report.n_merged + report.n_replaced, changed.len(), "{report:?}");
            let config: Value =
                serde_json::from_slice(&fs::read(output.join("config.json")).unwrap()).unwrap();
            let named = config.get("dtype").or_else(|| config.get("torch_dtype")).unwrap();
            assert_eq!((named.as_str().unwrap(), report.dtype), (type_name.as_str(), type_name.as_str()));
        }
    }
    println!("{n_cases} cases; {n_other} of {n_all} elements are PEFT's neighbour");
    assert!(n_cases > 50 && n_other * 500 < n_all, "{n_cases} cases, {n_other} of {n_all}");
}

/// Models that are only for merging, whose references are whole.
#[test]
fn transposed_fused_and_inner_layouts_equal_peft() {
    let scratch = tempfile::tempdir().unwrap();
    let mut n_cases = 0;
    for (model, base, prefix) in
        [("gpt2", "gpt2", ""), ("phi3_fused", "phi3_fused", ""), ("phi4mm", "phi3_fused", "inner")]
    {
        let directory = reference(&format!("merge/{model}"));
        let plain = WeightFiles::open(&reference(&format!("merge/{base}"))).unwrap();
        for ((adapter, type_name), changed) in
            cases(&tensors(&reference(&format!("merge/{base}.safetensors"))))
        {
            let lora = match prefix {
                "" => directory.join("adapters").join(&adapter),
                _ => directory.join(format!("{adapter}-lora")),
            };
            if !lora.exists() {
                continue;
            }
            println!("{model} {adapter}");
            let output = scratch.path().join(format!("{model}-{adapter}"));
            let report = merge(&directory, &lora, &output).unwrap();
            let (_, dtype) = merge_type(&type_name);
            let merged = WeightFiles::open(&output).unwrap();
            let (n_other, n_all) = compare(&plain, &merged, dtype, &changed, 1);
            assert!(n_other * 500 <= n_all, "{model} {adapter}: {n_other} of {n_all}");
            let has_note = report.warnings.iter().any(|note| note.contains("inside the checkpoint"));
            assert_eq!(has_note, prefix == "inner", "{report:?}");
            n_cases += 1;
        }
    }
    assert_eq!(n_cases, 3 + 4 + 2);
}

/// Writes tensors as a safetensors file.
fn write_tensors(path: &Path, all: &[(String, Tensor)]) {
    let views = all.iter().map(|(name, tensor)| {
        (name, TensorView::new(tensor.dtype(), tensor.shape().to_vec(), tensor.data()).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A model or adapter directory's files in a place where they may be changed.
fn copy(from: &Path) -> tempfile::TempDir {
    fn all(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                fs::create_dir(&target).unwrap();
                all(&path, &target);
            } else {
                fs::copy(&path, &target).unwrap();
            }
        }
    }
    let scratch = tempfile::tempdir().unwrap();
    all(from, scratch.path());
    scratch
}

#[test]
fn a_folder_inside_the_checkpoint_may_hold_named_tensors() {
    let model = copy(&reference("merge/phi4mm"));
    let file = tensors(&reference("merge/phi4mm/model.safetensors"));
    let named: Vec<(String, Tensor)> = file
        .names()
        .filter(|name| name.contains(".vision."))
        .map(|name| (format!("base_model.model.{name}"), file.get(name).unwrap()))
        .collect();
    let (first, second) = (model.path().join("first"), model.path().join("second"));
    let lora = model.path().join("vision-lora");
    merge(model.path(), &lora, &first).unwrap();
    write_tensors(&lora.join("adapter_model.safetensors"), &named);
    merge(model.path(), &lora, &second).unwrap();
    let read = |directory: &Path| fs::read(directory.join("model.safetensors")).unwrap();
    assert!(read(&first) == read(&second));
    // A name that says nothing does not choose.
    fs::rename(&lora, model.path().join("adapter")).unwrap();
    fs::remove_file(model.path().join("adapter/adapter_model.safetensors")).unwrap();
    let message = merge(model.path(), &model.path().join("adapter"), &first).unwrap_err().to_string();
    assert!(message.contains("speech, vision") && message.contains("--lora_dir"), "{message}");
}

#[test]
fn merged_models_compute_what_peft_computes_unmerged() {
    let scratch = tempfile::tempdir().unwrap();
    let mut n_runs = 0;
    let mut largest = 0.0_f32;
    for model in &merged_models() {
        let directory = reference(&format!("models/{model}"));
        let file = tensors(&reference(&format!("merge/{model}.safetensors")));
        let tokens = ids(&file, "tokens");
        for name in file.names().filter(|name| name.starts_with("logits/")) {
            let adapter = name.strip_prefix("logits/").unwrap();
            let output = scratch.path().join(format!("{model}-{adapter}"));
            let lora = directory.join("adapters").join(adapter);
            let options = MergeOptions { element: MergeType::F32, ..options(&directory, &lora, &output) };
            let report = merge_lora(&options).unwrap();
            let is_untied = report.warnings.iter().any(|note| note.contains("tie_word_embeddings is false"));
            assert_eq!(is_untied, model == "qwen2" && ["embedding", "lm_head_tied"].contains(&adapter));
            let built = Built::new(&output, Precision::F32, 2);
            let found = built.logits(&tokens, None, 5).concat();
            let wanted = floats(&file.get(name).unwrap());
            assert_eq!(found.len(), wanted.len());
            let error = found.iter().zip(&wanted).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            println!("{model} {adapter}: {error}");
            largest = largest.max(error);
            n_runs += 1;
        }
    }
    assert!(n_runs >= 10 && largest < 1e-4, "{n_runs} runs, largest difference {largest}");
}

#[test]
fn merged_f16_engines_equal_transformers_and_peft() {
    let scratch = tempfile::tempdir().unwrap();
    for model in ["qwen2", "llama3"] {
        let directory = reference(&format!("models/{model}"));
        let file = tensors(&reference(&format!("logits/{model}.safetensors")));
        let tokens = ids(&file, "short.tokens");
        // The references run processed adapters, whose scaled lora_B is rounded to the adapter's type: bf16 is
        // too coarse for that to be the same adapter.
        for adapter in models()[model].iter().filter(|name| !name.starts_with("bf16")) {
            let output = scratch.path().join(format!("{model}-{adapter}"));
            merge(&directory, &directory.join("adapters").join(adapter), &output).unwrap();
            let found = Built::new(&output, Precision::F16, 2).logits(&tokens, None, 7).concat();
            let name = format!("short.{adapter}");
            let wanted = file.get(&format!("{name}@f16")).or_else(|| file.get(&name)).unwrap();
            let error =
                found.iter().zip(floats(&wanted)).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(error < 3e-2, "{model} {adapter}: {error}");
        }
    }
}

#[test]
fn shards_stay_shards_and_threads_do_not_matter() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = reference("models/llama3");
    let lora = directory.join("adapters/all_r16");
    let outputs = [1, 5].map(|n_threads| {
        let output = scratch.path().join(n_threads.to_string());
        merge_lora(&MergeOptions { n_threads, ..options(&directory, &lora, &output) }).unwrap();
        output
    });
    let names = |directory: &Path| {
        let is_file = |entry: &fs::DirEntry| entry.path().is_file();
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()).filter(is_file);
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    let mut wanted = names(&directory);
    wanted.insert("merge_lora.json".to_owned());
    assert_eq!(names(&outputs[0]), wanted);
    for name in &wanted {
        assert!(
            fs::read(outputs[0].join(name)).unwrap() == fs::read(outputs[1].join(name)).unwrap(),
            "{name}"
        );
        if name.ends_with(".safetensors") {
            let (before, after) = (tensors(&directory.join(name)), tensors(&outputs[0].join(name)));
            assert_eq!(after.metadata(), &BTreeMap::from([("format".to_owned(), "pt".to_owned())]));
            assert_eq!(before.names().collect::<Vec<_>>(), after.names().collect::<Vec<_>>());
        }
    }
    let index = crate::support::json(&outputs[0].join("model.safetensors.index.json"));
    assert_eq!(
        index["weight_map"],
        crate::support::json(&directory.join("model.safetensors.index.json"))["weight_map"]
    );
}

#[test]
fn other_files_come_along_and_weights_do_not() {
    let model = copy(&reference("models/qwen2"));
    let texts =
        ["tokenizer.json", "chat_template.jinja", "LICENSE", "preprocessor_config.json", "modeling.py"];
    for name in texts {
        fs::write(model.path().join(name), name).unwrap();
    }
    for name in ["pytorch_model.bin", "other.gguf", "model.onnx", ".gitattributes"] {
        fs::write(model.path().join(name), name).unwrap();
    }
    let lora = model.path().join("adapters/all_r8");
    let output = model.path().join("merged");
    let report = merge(model.path(), &lora, &output).unwrap();
    for name in texts {
        assert_eq!(fs::read_to_string(output.join(name)).unwrap(), name);
    }
    for name in ["pytorch_model.bin", "other.gguf", "model.onnx"] {
        assert!(!output.join(name).exists() && report.warnings.join("\n").contains(name), "{name}");
    }
    assert!(!output.join(".gitattributes").exists());
    // Again, after a crash: what the earlier one left and this one does not have goes away, other files stay.
    fs::remove_file(model.path().join("LICENSE")).unwrap();
    fs::remove_file(output.join("config.json")).unwrap();
    fs::write(output.join("notes.txt"), "mine").unwrap();
    merge(model.path(), &lora, &output).unwrap();
    assert!(!output.join("LICENSE").exists() && output.join("notes.txt").exists());
    assert!(output.join("config.json").exists());
    let left = fs::read_dir(model.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".tmp-"));
    assert_eq!(left.count(), 0);
}

#[test]
fn unsafe_places_are_refused() {
    let model = copy(&reference("models/qwen2"));
    let lora = model.path().join("adapters/all_r8");
    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join("thesis.txt"), "mine").unwrap();
    let home = tempfile::tempdir().unwrap();
    let here = std::env::current_dir().unwrap();
    let root = PathBuf::from("/");
    let link = foreign.path().join("link");
    std::os::unix::fs::symlink(model.path(), &link).unwrap();
    let parent = model.path().join("adapters");
    let file = foreign.path().join("thesis.txt");
    let places: [(&Path, &str); 9] = [
        (&root, "root"),
        (home.path(), "home"),
        (&here, "current"),
        (model.path(), "input"),
        (&lora, "input"),
        (&parent, "input"),
        (&link, "input"),
        (foreign.path(), "merge_lora.json"),
        (&file, "not a directory"),
    ];
    for (place, said) in places {
        let options =
            MergeOptions { home: Some(home.path().to_owned()), ..options(model.path(), &lora, place) };
        let error = merge_lora(&options).unwrap_err();
        assert_eq!(error.exit_code(), 73, "{error}");
        assert!(error.to_string().contains(said), "{}: {error}", place.display());
    }
}

/// Changes a directory's JSON file.
fn edit(path: &Path, key: &str, value: Value) {
    let mut object = crate::support::json(path);
    object[key] = value;
    fs::write(path, object.to_string()).unwrap();
}

/// Changes the tensors of the adapter `all_r8` of qwen2, or its model's, and merges.
struct Case {
    change: fn(&Path, &Path),
    said: &'static [&'static str],
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<(String, Tensor)>)) {
    let file = tensors(path);
    let mut all: Vec<_> = file.names().map(|name| (name.to_owned(), file.get(name).unwrap())).collect();
    change(&mut all);
    write_tensors(path, &all);
}

fn filled(value: f32, shape: &[usize]) -> Tensor {
    let bytes: Vec<u8> = vec![value; shape.iter().product()].into_iter().flat_map(f32::to_le_bytes).collect();
    let len = bytes.len();
    Tensor::at(std::sync::Arc::new(bytes), Dtype::F32, shape.to_vec(), 0..len).unwrap()
}

#[test]
fn what_cannot_be_right_is_refused_by_name() {
    let cases = [
        Case {
            change: |_, lora| {
                rewrite(&lora.join("adapter_model.safetensors"), |all| {
                    for (name, _) in all.iter_mut().filter(|(name, _)| name.contains("layers.1.mlp")) {
                        *name = name.replace("layers.1", "layers.9");
                    }
                });
            },
            said: &[
                "6 tensors without a match",
                "layers.9.mlp.down_proj.lora_A",
                "layers.9.mlp.up_proj.lora_B",
            ],
        },
        Case {
            change: |_, lora| {
                rewrite(&lora.join("adapter_model.safetensors"), |all| {
                    all.push(("base_model.model.model.norm.lora_A".to_owned(), filled(1.0, &[64])));
                });
            },
            said: &["1 tensor not merged by adding", "base_model.model.model.norm.lora_A"],
        },
        Case {
            change: |_, lora| {
                rewrite(&lora.join("adapter_model.safetensors"), |all| {
                    all.push((
                        "base_model.model.model.layers.0.self_attn.o_proj.lora_B.bias".to_owned(),
                        filled(1.0, &[64]),
                    ));
                });
            },
            said: &["o_proj.lora_B.bias", "does not have", "PEFT"],
        },
        Case {
            change: |_, lora| {
                rewrite(&lora.join("adapter_model.safetensors"), |all| {
                    all.retain(|(name, _)| !name.contains("layers.0.self_attn.k_proj.lora_B"));
                });
            },
            said: &["adapter_model.safetensors", "layers.0.self_attn.k_proj.lora_B", "missing"],
        },
        Case {
            change: |_, lora| {
                rewrite(&lora.join("adapter_model.safetensors"), |all| {
                    all.push(("base_model.model.model.norm.weight".to_owned(), filled(1.0, &[63])));
                });
            },
            said: &["model.norm.weight", "[63]", "[64]"],
        },
        Case {
            change: |_, lora| {
                rewrite(&lora.join("adapter_model.safetensors"), |all| {
                    let (name, tensor) = all[0].clone();
                    all.push((name.replace(".weight", ".default.weight"), tensor));
                });
            },
            said: &["mean the same", "default"],
        },
        Case {
            change: |_, lora| edit(&lora.join("adapter_config.json"), "r", json!(5)),
            said: &["rank 5", "lora_A", "[8, "],
        },
        Case {
            change: |_, lora| edit(&lora.join("adapter_config.json"), "lora_alpha", json!(1e9)),
            said: &["adapter_model.safetensors: ", "model.layers.0.", "float16 cannot hold"],
        },
        Case {
            change: |_, lora| {
                rewrite(&lora.join("adapter_model.safetensors"), |all| {
                    let b =
                        all.iter_mut().find(|(name, _)| name.contains("1.self_attn.k_proj.lora_B")).unwrap();
                    b.1 = filled(f32::NAN, b.1.shape());
                });
            },
            said: &["adapter_model.safetensors", "1.self_attn.k_proj.lora_B", "holds NaN", "finite"],
        },
        Case {
            change: |_, lora| edit(&lora.join("adapter_config.json"), "use_dora", json!(true)),
            said: &["lora_magnitude_vector", "missing"],
        },
        Case {
            change: |_, lora| edit(&lora.join("adapter_config.json"), "init_lora_weights", json!("pissa")),
            said: &["init_lora_weights", "pissa", "path_initial_model_for_weight_conversion"],
        },
        Case {
            change: |_, lora| edit(&lora.join("adapter_config.json"), "target_parameters", json!(["x"])),
            said: &["target_parameters", "merge_and_unload"],
        },
        Case {
            change: |model, _| edit(&model.join("config.json"), "quantization_config", json!({"bits": 4})),
            said: &["config.json", "quantized"],
        },
        Case {
            change: |model, _| {
                rewrite(&model.join("model.safetensors"), |all| {
                    let norm = all.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap();
                    norm.1 = filled(70_000.0, &[64]);
                });
            },
            said: &["model.norm.weight", "70000", "float16"],
        },
        Case {
            change: |_, lora| {
                fs::rename(lora.join("adapter_model.safetensors"), lora.join("adapter_model.bin")).unwrap();
            },
            said: &["adapter_model.bin", "safe_serialization"],
        },
        Case {
            change: |_, lora| fs::remove_file(lora.join("adapter_model.safetensors")).unwrap(),
            said: &["no adapter_model.safetensors"],
        },
    ];
    for Case { change, said } in cases {
        let model = copy(&reference("models/qwen2"));
        let lora = model.path().join("adapters/all_r8");
        change(model.path(), &lora);
        let scratch = tempfile::tempdir().unwrap();
        let message = merge(model.path(), &lora, &scratch.path().join("merged")).unwrap_err().to_string();
        for said in said {
            assert!(message.contains(said), "{said:?} is not in: {message}");
        }
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "{message}: files are left");
    }
    for (adapter, said) in [
        ("layer_replication", "layer_replication"),
        ("alora", "alora_invocation_tokens"),
        ("trainable_tokens", "trainable_token_indices"),
        ("ia3", "peft_type"),
    ] {
        let model = reference("models/qwen2");
        let scratch = tempfile::tempdir().unwrap();
        let lora = model.join("adapters").join(adapter);
        let error = merge(&model, &lora, &scratch.path().join("merged")).unwrap_err();
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// What PEFT saves beside an adapter of the embedding, and a vocabulary table saved twice.
#[test]
fn tied_tables_that_are_both_replaced_stay_tied() {
    let model = copy(&reference("models/qwen2"));
    let lora = model.path().join("adapters/all_r8");
    let output = model.path().join("merged");
    rewrite(&lora.join("adapter_model.safetensors"), |all| {
        for name in ["model.embed_tokens", "lm_head"] {
            all.push((format!("base_model.model.{name}.weight"), filled(0.5, &[608, 64])));
        }
    });
    merge(model.path(), &lora, &output).unwrap();
    let merged = WeightFiles::open(&output).unwrap();
    assert!(merged.tensor("lm_head.weight").is_none());
    assert!(floats(&merged.tensor("model.embed_tokens.weight").unwrap()).iter().all(|value| *value == 0.5));
    assert_eq!(crate::support::json(&output.join("config.json"))["tie_word_embeddings"], true);
    // Loaded into the base, where both are one: PEFT changes both by either.
    rewrite(&lora.join("adapter_model.safetensors"), |all| all.retain(|(name, _)| !name.contains("embed")));
    let head_alone = fs::read(lora.join("adapter_model.safetensors")).unwrap();
    let of_both = fs::read(output.join("model.safetensors")).unwrap();
    merge(model.path(), &lora, &output).unwrap();
    assert!(fs::read(output.join("model.safetensors")).unwrap() == of_both);
    rewrite(&lora.join("adapter_model.safetensors"), |all| {
        all.retain(|(name, _)| !name.contains("lm_head"));
        all.push(("base_model.model.model.embed_tokens.weight".to_owned(), filled(0.5, &[608, 64])));
    });
    merge(model.path(), &lora, &output).unwrap();
    assert!(fs::read(output.join("model.safetensors")).unwrap() == of_both);
    // One alone is trained, as a copy: the other stays what it was.
    fs::write(lora.join("adapter_model.safetensors"), head_alone).unwrap();
    edit(&lora.join("adapter_config.json"), "modules_to_save", json!(["lm_head"]));
    merge(model.path(), &lora, &output).unwrap();
    let merged = WeightFiles::open(&output).unwrap();
    let table = floats(&merged.tensor("model.embed_tokens.weight").unwrap());
    assert!(table.iter().any(|value| *value != 0.5));
    assert!(floats(&merged.tensor("lm_head.weight").unwrap()).iter().all(|value| *value == 0.5));
    assert_eq!(crate::support::json(&output.join("config.json"))["tie_word_embeddings"], false);
}

/// What PEFT saves beside an adapter of the embedding (`save_embedding_layers`) is most often the base's own table.
#[test]
fn a_table_that_is_the_base_s_leaves_the_head_tied() {
    let model = copy(&reference("models/qwen2"));
    let lora = model.path().join("adapters/all_r8");
    let [plain, output] = ["plain", "merged"].map(|name| model.path().join(name));
    merge(model.path(), &lora, &plain).unwrap();
    let base = WeightFiles::open(model.path()).unwrap();
    let table = base.tensor("model.embed_tokens.weight").unwrap();
    rewrite(&lora.join("adapter_model.safetensors"), |all| {
        all.push(("base_model.model.model.embed_tokens.weight".to_owned(), table.clone()));
    });
    for modules in [json!(null), json!(["embed_tokens"])] {
        edit(&lora.join("adapter_config.json"), "modules_to_save", modules);
        merge(model.path(), &lora, &output).unwrap();
        let read = |directory: &Path| fs::read(directory.join("model.safetensors")).unwrap();
        assert!(read(&output) == read(&plain));
    }
}

/// A whole table beside an adapter, without modules_to_save: PEFT's load puts it into the base, of a tied model into both.
#[test]
fn whole_tables_beside_an_adapter_equal_peft() {
    let wanted = tensors(&reference("merge/full_tables.safetensors"));
    let cases: BTreeSet<&str> = wanted.names().map(|name| name.split_once('/').unwrap().0).collect();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let model = if case.starts_with("qwen2_odd") { "qwen2_odd" } else { "qwen2" };
        let (scratch, lora) = (tempfile::tempdir().unwrap(), reference("merge/full_tables").join(case));
        let output = scratch.path().join("merged");
        merge(&reference(&format!("models/{model}")), &lora, &output).unwrap();
        let merged = WeightFiles::open(&output).unwrap();
        let is_tied = ids(&wanted, &format!("{case}/tied")) == [1];
        assert_eq!(merged.tensor("lm_head.weight").is_none(), is_tied, "{case}");
        let config = crate::support::json(&output.join("config.json"));
        assert_eq!(config["tie_word_embeddings"], is_tied, "{case}");
        for name in ["model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"] {
            let wanted = floats(&wanted.require(&format!("{case}/{name}")).unwrap());
            let head_is_table = is_tied && name == "lm_head.weight";
            let found =
                merged.tensor(if head_is_table { "model.embed_tokens.weight" } else { name }).unwrap();
            assert_eq!(found.dtype(), Dtype::F16);
            let found = floats(&found);
            assert_eq!(found.len().div_ceil(STRIDE), wanted.len(), "{case} {name}");
            for (found, wanted) in found.iter().step_by(STRIDE).zip(wanted) {
                let bound = if name.contains("up_proj") { unit(wanted, Dtype::F16) } else { 0.0 };
                assert!((found - wanted).abs() <= bound, "{case} {name}: {found} wanted {wanted}");
            }
        }
    }
}

#[test]
fn tensors_without_a_place_are_told_in_one_short_list() {
    let model = copy(&reference("models/qwen2"));
    let lora = model.path().join("adapters/all_r8");
    rewrite(&lora.join("adapter_model.safetensors"), |all| {
        for (name, _) in all.iter_mut() {
            *name = name.replace("model.layers", "model.strata");
        }
    });
    let message = merge(model.path(), &lora, &model.path().join("merged")).unwrap_err().to_string();
    assert_eq!(message.matches("without a match in the checkpoint").count(), 1, "{message}");
    assert!(message.contains("28 tensors") && message.contains("and 8 more"), "{message}");
}

#[test]
fn links_to_nothing_are_told() {
    let model = copy(&reference("models/qwen2"));
    std::os::unix::fs::symlink("gone", model.path().join("tokenizer_config.json")).unwrap();
    let output = model.path().join("merged");
    let report = merge(model.path(), &model.path().join("adapters/all_r8"), &output).unwrap();
    let notes = report.warnings.join("\n");
    assert!(notes.contains("links to nothing") && notes.contains("tokenizer_config.json"), "{notes}");
    let error =
        jetspool::store::read_small_optional(&model.path().join("tokenizer_config.json")).unwrap_err();
    assert_eq!(error.exit_code(), 66);
    assert!(error.to_string().contains("link to a file that is not there"), "{error}");
    assert!(jetspool::store::read_small_optional(&model.path().join("none")).unwrap().is_none());
}
