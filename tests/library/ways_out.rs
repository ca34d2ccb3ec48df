//! What process-lora and merge-lora say of the same adapter: one never sends to the other in vain.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::{reference, tensors};
use jetspool::format::{Tensor, TensorFile};
use jetspool::tools::build::Progress;
use jetspool::tools::{
    Dropping, MergeOptions, MergeReport, MergeType, ProcessOptions, ToolError, merge_lora, process_lora,
};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// A scratch copy of an adapter of qwen2.
struct Site {
    scratch: tempfile::TempDir,
    lora: PathBuf,
}

impl Site {
    fn new(adapter: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let lora = scratch.path().join("lora");
        fs::create_dir(&lora).unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(reference(&format!("models/qwen2/adapters/{adapter}/{name}")), lora.join(name)).unwrap();
        }
        Self { scratch, lora }
    }

    fn set(&self, key: &str, value: Value) {
        let path = self.lora.join("adapter_config.json");
        let mut config = crate::support::json(&path);
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
    }

    fn rewrite(&self, change: impl FnOnce(&mut Vec<(String, Tensor)>)) {
        let path = self.lora.join("adapter_model.safetensors");
        let file = TensorFile::parse(Arc::new(fs::read(&path).unwrap())).unwrap();
        let mut all: Vec<_> = file.names().map(|name| (name.to_owned(), file.get(name).unwrap())).collect();
        change(&mut all);
        let views = all.iter().map(|(name, tensor)| {
            (name, TensorView::new(tensor.dtype(), tensor.shape().to_vec(), tensor.data()).unwrap())
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn add(&self, name: &str, shape: &[usize]) {
        let bytes = vec![0_u8; shape.iter().product::<usize>() * 4];
        let len = bytes.len();
        let tensor = Tensor::at(Arc::new(bytes), Dtype::F32, shape.to_vec(), 0..len).unwrap();
        self.rewrite(|all| all.push((format!("base_model.model.{name}"), tensor)));
    }

    fn process(&self, dropping: Dropping) -> Result<Vec<String>, ToolError> {
        let output_dir = self.scratch.path().join("processed");
        let options = ProcessOptions { dropping, ..ProcessOptions::new(self.lora.clone(), output_dir) };
        process_lora(&options).map(|report| report.dropped)
    }

    fn merge(&self) -> Result<MergeReport, ToolError> {
        merge_lora(&MergeOptions {
            model_dir: reference("models/qwen2"),
            lora_dir: self.lora.clone(),
            output_dir: self.scratch.path().join("merged"),
            element: MergeType::F16,
            n_threads: 1,
            progress: Progress::Quiet,
            home: None,
        })
    }
}

/// An adapter, a change of it, and a part of the way out that both tools have to tell.
struct Case {
    adapter: &'static str,
    change: fn(&Site),
    way: &'static str,
}

const fn of(adapter: &'static str, way: &'static str) -> Case {
    Case { adapter, change: |_| {}, way }
}

const fn changed(change: fn(&Site), way: &'static str) -> Case {
    Case { adapter: "all_r8", change, way }
}

const MERGE: &str = "merge-lora";
const UNMERGED: &str = "merge_and_unload";
const CONVERT: &str = "path_initial_model_for_weight_conversion";

fn cases() -> Vec<Case> {
    vec![
        of("dora", MERGE),
        of("embedding", MERGE),
        of("lm_head_tied", MERGE),
        of("bias_all", MERGE),
        of("lora_bias", MERGE),
        of("trainable_tokens", UNMERGED),
        of("layer_replication", "replicated layers"),
        of("alora", "run it in PEFT"),
        changed(|site| site.set("init_lora_weights", json!("pissa")), CONVERT),
        changed(|site| site.set("init_lora_weights", json!("pissa_niter_16")), CONVERT),
        changed(|site| site.set("init_lora_weights", json!("olora")), CONVERT),
        changed(|site| site.set("init_lora_weights", json!("corda")), CONVERT),
        changed(|site| site.set("init_lora_weights", json!("lora_ga")), CONVERT),
        changed(|site| site.set("init_lora_weights", json!("loftq")), "LoftQ"),
        changed(|site| site.set("use_qalora", json!(true)), "without use_qalora"),
        changed(|site| site.set("target_parameters", json!(["mlp.experts"])), UNMERGED),
        changed(|site| site.set("arrow_config", json!({"top_k": 2})), "each on its own"),
        changed(|site| site.set("use_bdlora", json!({"nblocks": 2})), UNMERGED),
        changed(|site| site.set("kasa_config", json!({"beta": 1})), UNMERGED),
        changed(
            |site| {
                site.set("use_dora", json!(true));
                site.set("init_lora_weights", json!("pissa"));
            },
            CONVERT,
        ),
        changed(|site| site.set("use_dora", json!(true)), "lora_magnitude_vector"),
        changed(
            |site| {
                site.set("modules_to_save", json!(["lm_head"]));
                site.add("lm_head.weight", &[608, 64]);
            },
            MERGE,
        ),
        changed(|site| site.add("model.embed_tokens.weight", &[608, 64]), MERGE),
        changed(|site| site.add("model.embed_tokens.weight", &[610, 64]), "resize_token_embeddings"),
        changed(|site| site.add("v_head.summary.weight", &[1, 64]), MERGE),
        changed(|site| site.add("score.weight", &[2, 64]), MERGE),
        changed(|site| site.add("model.layers.0.mlp.up_proj.lora_diag", &[8]), UNMERGED),
    ]
}

#[test]
fn the_tools_agree_on_the_way_out() {
    for Case { adapter, change, way } in cases() {
        let site = Site::new(adapter);
        change(&site);
        let config = fs::read_to_string(site.lora.join("adapter_config.json")).unwrap();
        let process = site.process(Dropping::Nothing).expect_err(&config);
        let said = process.to_string();
        assert!(said.contains(way), "{way:?} is not in: {said}");
        match site.merge() {
            Ok(_) => assert!(said.contains(MERGE), "merge-lora takes it, but: {said}"),
            Err(merge) => {
                let merge = merge.to_string();
                assert!(merge.contains(way), "{way:?} is not in: {merge}");
                let is_conditional = way == "resize_token_embeddings";
                assert!(is_conditional || !said.contains(MERGE), "{said}, but merge-lora: {merge}");
            }
        }
    }
}

#[test]
fn keys_without_tensors_are_nothing() {
    let wanted = fs::read(reference("process/qwen2/all_r8.safetensors")).unwrap();
    for (key, value) in [
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("trainable_token_indices", json!([1, 2])),
        ("velora_config", json!({"x": 1})),
    ] {
        let site = Site::new("all_r8");
        site.set(key, value);
        site.process(Dropping::Nothing).unwrap();
        let path = site.scratch.path().join("processed/processed_adapter_model.safetensors");
        assert!(fs::read(path).unwrap() == wanted, "{key}");
        site.merge().unwrap();
    }
}

#[test]
fn wrappers_of_training_are_taken_off() {
    let file = |path: &Path| fs::read(path).unwrap();
    let plain = Site::new("all_r8");
    plain.merge().unwrap();
    for (from, to) in [
        ("base_model.", "_orig_mod.base_model."),
        ("base_model.", "module.base_model."),
        ("base_model.model.", "base_model.model._orig_mod."),
        (".self_attn.", "._orig_mod.self_attn."),
    ] {
        let site = Site::new("all_r8");
        site.rewrite(|all| all.iter_mut().for_each(|(name, _)| *name = name.replacen(from, to, 1)));
        site.process(Dropping::Nothing).unwrap();
        let processed = site.scratch.path().join("processed/processed_adapter_model.safetensors");
        assert!(file(&processed) == file(&reference("process/qwen2/all_r8.safetensors")), "{to}");
        site.merge().unwrap();
        let merged = |site: &Site| file(&site.scratch.path().join("merged/model.safetensors"));
        assert!(merged(&site) == merged(&plain), "{to}");
    }
}

#[test]
fn unsupported_tensors_are_left_out_when_asked() {
    let site = Site::new("lm_head_tied");
    site.add("model.norm.weight", &[64]);
    site.add("v_head.summary.weight", &[1, 64]);
    site.set("modules_to_save", json!(["norm"]));
    let message = site.process(Dropping::Nothing).unwrap_err().to_string();
    assert!(message.contains("--drop-unsupported") && message.contains("lm_head.lora_A"), "{message}");
    let dropped = site.process(Dropping::Unsupported).unwrap();
    let wanted =
        ["lm_head.lora_A.weight", "lm_head.lora_B.weight", "model.norm.weight", "v_head.summary.weight"];
    assert_eq!(dropped, wanted.map(|name| format!("base_model.model.{name}")));
    let output = site.scratch.path().join("processed");
    let mark = crate::support::json(&output.join("config.json"))["jetspool"].clone();
    assert_eq!(mark["dropped"], json!(dropped));
    // The rest is what the same adapter without the head gives.
    site.rewrite(|all| all.retain(|(name, _)| name.contains("q_proj")));
    let path = output.join("processed_adapter_model.safetensors");
    let with_dropped = tensors(&path).as_bytes().to_vec();
    assert!(site.process(Dropping::Nothing).unwrap().is_empty());
    assert!(fs::read(path).unwrap() == with_dropped);
    // Embeddings are no such tensors.
    let embedding = Site::new("embedding").process(Dropping::Unsupported).unwrap_err().to_string();
    assert!(embedding.contains("lora_embedding_A"), "{embedding}");
}

#[test]
fn foreign_files_are_used_only_where_they_are_right() {
    use jetspool::format::check_origin;
    let mut n_refused = 0;
    for (adapter, is_risky) in [
        ("all_r8", false),
        ("bf16", false),
        ("rslora", true),
        ("patterns", true),
        ("square_kv", true),
        ("square_hidden", true),
    ] {
        let site = Site::new(adapter);
        site.process(Dropping::Nothing).unwrap();
        let output = site.scratch.path().join("processed");
        let file = tensors(&output.join("processed_adapter_model.safetensors"));
        check_origin(&fs::read(output.join("config.json")).unwrap(), &file).unwrap();
        // The workflow's own tool copies the configuration.
        let foreign = fs::read(site.lora.join("adapter_config.json")).unwrap();
        let checked = check_origin(&foreign, &file);
        assert_eq!(checked.is_err(), is_risky, "{adapter}: {checked:?}");
        n_refused += usize::from(checked.is_err());
    }
    assert_eq!(n_refused, 4);
}
