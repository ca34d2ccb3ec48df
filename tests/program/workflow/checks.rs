//! Checks of what the page's commands left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::page::Site;
use crate::support::service::{jetspool, ok};
use crate::support::{contents, data, json as read_json};

impl Site {
    /// Runs the program in the page's folder; the words are separated by spaces.
    pub fn run(&self, words: &str) -> Output {
        let words: Vec<&str> = words.split(' ').collect();
        jetspool(&words).current_dir(&self.root).output().unwrap()
    }

    pub fn ok(&self, words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        ok(jetspool(&words).current_dir(&self.root));
    }

    pub fn json(&self, path: &str) -> Value {
        read_json(&self.root.join(path))
    }

    pub fn names(&self, directory: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.root.join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub fn bytes(&self, path: &str) -> Vec<u8> {
        fs::read(self.root.join(path)).unwrap()
    }
}

fn demo(path: &str) -> String {
    data("demo").join(path).display().to_string()
}

/// scripts/package takes them from the command line's own list.
pub fn names_are_links_of_the_package(site: &Site) {
    let packaged: BTreeSet<&str> = jetspool::cli::program_commands().map(|(name, _)| name).collect();
    for name in site.names("bin") {
        assert!(packaged.contains(name.as_str()), "{name} is not in {packaged:?}");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package");
    assert!(fs::read_to_string(script).unwrap().contains("--example package_files"));
}

pub fn a_merged_engine_is_as_small_as_the_base(site: &Site) {
    assert_eq!(site.json("engine-french/config.json")["builder_config"]["max_lora_rank"], 0);
    site.ok("build --modelDir merged --engineDir plain/merged");
    site.ok(&format!("build --modelDir {} --engineDir plain/base", demo("checkpoint")));
    let len = |name: &str| site.bytes(&format!("plain/{name}/llm.engine")).len();
    assert_eq!(len("merged"), len("base"));
}

pub fn quantize_llm_may_be_left_out(site: &Site) {
    site.ok("export-llm --model_dir merged --output_dir onnx-plain");
    for (flags, precision) in [("", "f16"), (" --precision int4", "int4")] {
        site.ok(&format!("build --onnxDir onnx-plain --engineDir engine-plain{flags}"));
        assert_eq!(site.json("engine-plain/config.json")["jetspool"]["precision"], precision);
    }
}

pub fn export_llm_may_be_left_out(site: &Site) {
    site.ok("build --modelDir quantized --engineDir engine-direct");
    let [wanted, found] = ["engine-french", "engine-direct"].map(|name| contents(&site.root.join(name)));
    assert!(wanted == found);
}

pub fn the_engine_has_room_for_adapters(site: &Site) {
    assert_eq!(site.json("engine/config.json")["builder_config"]["max_lora_rank"], 16);
}

/// Its own export again is what it was, but for one file.
pub fn insert_lora_adds_one_file(site: &Site) {
    site.ok(&format!("export-llm --model_dir {} --output_dir onnx-again", demo("checkpoint")));
    let (with, without) = (site.names("onnx"), site.names("onnx-again"));
    assert!(with.difference(&without).eq(["lora_model.onnx"]), "{with:?} {without:?}");
    for name in &without {
        assert!(site.bytes(&format!("onnx/{name}")) == site.bytes(&format!("onnx-again/{name}")), "{name}");
    }
    assert!(site.bytes("onnx/lora_model.onnx").len() < site.bytes("onnx/onnx_model.data").len() / 10);
}

pub fn a_processed_adapter_says_who_made_it(site: &Site) {
    let text = String::from_utf8(site.bytes("processed/french/config.json")).unwrap();
    let peft = fs::read_to_string(demo("adapters/french/adapter_config.json")).unwrap();
    let (start, mark) = text.rsplit_once("\"jetspool\"").expect("the key is there");
    // PEFT's text goes on to its last brace.
    let kept = peft.trim_end().trim_end_matches('}').trim_end();
    assert_eq!(start.trim_end().trim_end_matches(',').trim_end(), kept);
    let mark: Value = serde_json::from_str(&format!("{{\"jetspool\"{mark}")).unwrap();
    let mark = &mark["jetspool"];
    assert!(
        mark["producer"].as_str().unwrap().contains("process-lora") && !mark["scaling"].is_null(),
        "{mark}"
    );
}

pub fn a_file_alone_is_used(site: &Site) {
    fs::create_dir(site.root.join("alone")).unwrap();
    let file = "alone/processed_adapter_model.safetensors";
    fs::write(site.root.join(file), site.bytes("processed/french/processed_adapter_model.safetensors"))
        .unwrap();
    let mut config: Value = site.json("processed/french/config.json");
    config.as_object_mut().unwrap().remove("jetspool");
    config["use_rslora"] = json!(true);
    let beside = site.root.join("alone/config.json");
    fs::write(&beside, config.to_string()).unwrap();
    let words = format!("logits --engineDir engine --tokens 5,6 --outputFile alone/x --lora {file}");
    assert!(!site.run(&words).status.success());
    fs::remove_file(beside).unwrap();
    assert!(site.run(&words).status.success());
}

/// No node of a domain but the standard's.
pub fn graphs_are_of_the_standard(site: &Site) {
    for name in ["onnx/lora_model.onnx", "onnx-french/model.onnx", "onnx-fp8/lora_model.onnx"] {
        let bytes = site.bytes(name);
        let model = jetspool::format::onnx::Model::parse(&bytes).unwrap();
        let foreign: Vec<&str> =
            model.graph.nodes.iter().map(|node| node.domain).filter(|domain| !domain.is_empty()).collect();
        assert!(foreign.is_empty(), "{name}: {foreign:?}");
    }
}

pub fn ranges_alone_are_refused(site: &Site) {
    let directory = site.root.join("ranges");
    fs::create_dir(&directory).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(site.root.join("merged").join(name), directory.join(name)).unwrap();
    }
    // What it says beside them.
    fs::copy(site.root.join("quantized/hf_quant_config.json"), directory.join("hf_quant_config.json"))
        .unwrap();
    let mut header_and_data = site.bytes("merged/model.safetensors");
    let len = usize::try_from(u64::from_le_bytes(header_and_data[..8].try_into().unwrap())).unwrap();
    let mut header: Value = serde_json::from_slice(&header_and_data[8..8 + len]).unwrap();
    let data = header_and_data.split_off(8 + len);
    let name = "model.layers.0.mlp.up_proj.weight_quantizer._amax";
    header[name] = json!({"dtype": "F16", "shape": [1], "data_offsets": [data.len(), data.len() + 2]});
    let header = header.to_string();
    let len = u64::try_from(header.len()).unwrap().to_le_bytes();
    fs::write(
        directory.join("model.safetensors"),
        [&len[..], header.as_bytes(), &data[..], &[0, 0x3c]].concat(),
    )
    .unwrap();
    let said = |words: &str| String::from_utf8(site.run(words).stderr).unwrap();
    for words in [
        "build --modelDir ranges --engineDir engine-ranges",
        "export-llm --model_dir ranges --output_dir onnx-ranges",
    ] {
        let said = said(words);
        assert!(said.contains(name) && said.contains("quantize again"), "{words}: {said}");
    }
}
