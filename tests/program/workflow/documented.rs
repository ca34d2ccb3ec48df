//! What the documents of TensorRT Edge-LLM's LoRA workflow say of its tools (0.5 to 0.12), in short: what the user types,
//! what is written where, what holds without a flag. Where jetspool differs on purpose, the page or README's limits say so.

use std::collections::BTreeSet;

use super::page::Site;
use super::proof::{
    Proof::{Check, Run, Tests},
    Row, row,
};
use crate::support::tensors;
use jetspool::format::TensorFile;
use safetensors::Dtype;
use serde_json::{Value, json};

const WIRE: &str = "tests/library/spool_wire.rs";
const PARSE: &str = "src/cli/parse.rs";
const SERVICE: &str = "tests/program/service.rs";

pub const WORKFLOW: &[Row] = &[
    row(
        "flags: every one of each tool is taken, or refused by name with the reason",
        &[Check(flags_are_known)],
    ),
    row(
        "names and spellings: tensorrt-edgellm-*, llm_*, trtedge, in camel case, with hyphens, with underscores",
        &[
            Run,
            Tests(
                PARSE,
                &[
                    "every_spelling_and_program_name_is_taken",
                    "the_onnx_tools_are_spelled_as_in_the_workflow",
                ],
            ),
        ],
    ),
    row(
        "llm_build: batches of 4, prompts of 1024, a cache of 4096, no adapters, where no flag says otherwise",
        &[Check(defaults_of_llm_build), Tests(PARSE, &["defaults_are_the_workflows"])],
    ),
    row("llm_build: the files and keys of an engine directory", &[Check(files_of_an_engine)]),
    row("llm_build: --maxLoraRank reads lora_model.onnx", &[Check(adapters_need_the_inserted_graph)]),
    row("export-llm: the files of an ONNX directory; MODEL OUT writes OUT/llm", &[Check(files_of_an_export)]),
    row(
        "insert-lora: inputs `MODULE.lora_A.weight` [k, rank] and `MODULE.lora_B.weight` [rank, n]",
        &[Check(inputs_for_adapters)],
    ),
    row(
        "process-lora: two files; f16 tensors under the graph's names, A [k, r], B [r, n]",
        &[Check(files_of_process_lora)],
    ),
    row(
        "merge-lora: a checkpoint of f16 with the names of the base, and its tokenizer",
        &[Check(files_of_merge_lora)],
    ),
    row(
        "merge-lora: an output that is the root, home, or holds the inputs is refused",
        &[
            Tests("tests/library/merge.rs", &["unsafe_places_are_refused"]),
            Tests("tests/program/refusals.rs", &["the_current_directory_is_nobodys_output"]),
        ],
    ),
    row(
        "quantize-llm: hf_quant_config.json and scales beside each weight, for each of five methods",
        &[
            Check(files_of_quantize_llm),
            Tests(
                "tests/library/quantize_llm.rs",
                &[
                    "every_weight_is_the_nearest_that_the_layout_can_hold",
                    "an_untied_head_may_have_a_method_of_its_own",
                ],
            ),
        ],
    ),
    row(
        "llm_inference: fields of a request file, their defaults and limits",
        &[Tests(
            WIRE,
            &[
                "reads_every_field",
                "defaults_are_the_documented_ones",
                "limits_hold_to_the_last_one_and_are_named",
                "wrong_top_levels_reject_the_file",
            ],
        )],
    ),
    row(
        "llm_inference: an answer file has sorted keys, four spaces, an answer for each request in order",
        &[Check(answers_in_order), Tests(WIRE, &["answers_have_the_documented_bytes"])],
    ),
    row(
        "llm_inference: no adapter where lora_name is absent, null or empty",
        &[Tests(WIRE, &["reads_every_field", "defaults_are_the_documented_ones"])],
    ),
    row(
        "llm_inference: --batchSize, --maxGenerateLength, --numLogprobs win over the file",
        &[Tests(SERVICE, &["flags_count_for_every_request_and_no_file_is_written_over_another"])],
    ),
    row(
        "llm_inference: --dumpProfile with --profileOutputFile writes the stages",
        &[Check(a_profile_is_written)],
    ),
    row(
        "llm_inference: a temperature of 0 is greedy: no random number enters",
        &[Check(greedy_is_without_chance)],
    ),
    row(
        "llm_inference: stop strings, logprobs at temperature 1, bias by token id",
        &[
            Tests("src/text/stop.rs", &["the_earliest_stop_cuts_however_the_text_arrives"]),
            Tests(
                "src/infer/sampler.rs",
                &["logprobs_are_a_log_softmax", "bias_moves_the_choice_and_ignores_unknown_tokens"],
            ),
        ],
    ),
    row(
        "llm_inference: guided_decoding and response_format",
        &[
            Tests(
                "src/spool/wire/guide.rs",
                &["each_mode_is_read_as_it_is_and_as_a_string", "what_cannot_be_kept_is_refused"],
            ),
            Tests("tests/program/guided.rs", &["answers_keep_their_guides_alone_and_in_a_batch"]),
        ],
    ),
    row(
        "llm_inference: one wrong request, name or adapter fails alone",
        &[Tests(SERVICE, &["a_bad_request_fails_alone"]), Tests(WIRE, &["wrong_requests_fail_alone"])],
    ),
    row(
        "processed_chat_template.json: roles, generation prompt, default system prompt",
        &[Tests("tests/library/text.rs", &["processed_templates_render_as_documented"])],
    ),
];

/// Tool and its flags, as the documents of 0.5 to 0.11 spell them.
const FLAGS: &[(&str, &str)] = &[
    (
        "llm_build",
        "onnxDir engineDir maxInputLen maxKVCacheCapacity maxBatchSize maxLoraRank maxKVPoolPages debug \
         profilingDetailed specBase specDraft maxVerifyTreeSize maxDraftTreeSize eagleBase eagleDraft help",
    ),
    (
        "llm_inference",
        "engineDir inputFile outputFile multimodalEngineDir dumpProfile profileOutputFile warmup debug dumpOutput \
         batchSize maxGenerateLength numLogprobs enableContextReuse contextCacheMaxRecords specDecode specDraftTopK \
         specDraftStep specVerifySize eagle eagleDraftTopK eagleDraftStep eagleVerifyTreeSize checkpointDir \
         draftCheckpointDir dflashBlockSize enableAudioOutput talkerEngineDir code2wavEngineDir outputAudioDir \
         enableThinkerTalkerStreaming contextCacheRecurrentSnapshotPoolBytes contextCachePartialKVSnapshotPoolBytes help",
    ),
    ("merge-lora", "model_dir lora_dir output_dir device torch-dtype torch_dtype help"),
    ("insert-lora", "onnx_dir onnx-dir help"),
    ("process-lora", "input_dir output_dir help"),
    (
        "quantize-llm",
        "model_dir output_dir quantization dtype dataset_dir lm_head_quantization kv_cache_quantization device help",
    ),
    (
        "export-llm",
        "model_dir output_dir device is_eagle_base reduced_vocab_dir chat_template fp8_kv_cache dtype skip-llm components \
         eagle-base fp8-embedding externalize-weights tp-size num-decoder-layer int4-gemm-plugin-version help",
    ),
];

fn flags_are_known(site: &Site) {
    for (tool, flags) in FLAGS {
        for flag in flags.split_whitespace() {
            let command = match *tool {
                "llm_build" => "build",
                "llm_inference" => "run",
                other => other,
            };
            let output = site.run(&format!("{command} --{flag}"));
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!said.contains("unexpected argument"), "{tool} --{flag}: {said}");
            assert_eq!(
                output.status.code(),
                Some(if flag == "help" { 0 } else { 64 }),
                "{tool} --{flag}: {said}"
            );
        }
    }
}

fn defaults_of_llm_build(site: &Site) {
    site.ok("build --onnxDir onnx-french --engineDir engine-defaults");
    let found = site.json("engine-defaults/config.json")["builder_config"].clone();
    let wanted = json!({"max_batch_size": 4, "max_input_len": 1024, "max_kv_cache_capacity": 4096, "max_lora_rank": 0});
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(&found[key], value, "{key}");
    }
}

fn files_of_an_engine(site: &Site) {
    let names = site.names("engine");
    for name in ["llm.engine", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    let config = site.json("engine/config.json");
    let sizes = ["num_hidden_layers", "num_key_value_heads", "head_dim", "vocab_size", "hidden_size"];
    assert!(sizes.iter().all(|key| config[key].as_u64() > Some(0)), "{config}");
}

/// Without it the tool says which command makes it.
fn adapters_need_the_inserted_graph(site: &Site) {
    let output = site.run("build --onnxDir onnx-french --engineDir engine-none --maxLoraRank 16");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("lora_model.onnx") && said.contains("insert-lora"),
        "{said}"
    );
}

fn files_of_an_export(site: &Site) {
    let checkpoint = crate::support::data("demo/checkpoint").display().to_string();
    let bin = site.root.join("bin/tensorrt-edgellm-export");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_jetspool"), &bin).unwrap();
    let output =
        std::process::Command::new(bin).args([&checkpoint, "exported"]).current_dir(&site.root).output();
    assert!(output.unwrap().status.success());
    let names = site.names("exported/llm");
    for name in [
        "model.onnx",
        "onnx_model.data",
        "config.json",
        "embedding.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "processed_chat_template.json",
    ] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    let embedding = tensors(&site.root.join("exported/llm/embedding.safetensors"));
    let embedding = embedding.require("embedding").unwrap();
    let config = site.json("exported/llm/config.json");
    let shape = [&config["vocab_size"], &config["hidden_size"]].map(|n| n.as_u64().unwrap());
    let found: Vec<u64> = embedding.shape().iter().map(|n| *n as u64).collect();
    assert_eq!((embedding.dtype(), &found[..]), (Dtype::F16, &shape[..]));
}

/// Names of the inputs for adapters in the page's graph.
fn inputs_of(bytes: &[u8]) -> BTreeSet<String> {
    let model = jetspool::format::onnx::Model::parse(bytes).unwrap();
    let names = model.graph.inputs.iter().map(|input| input.name.to_owned());
    names.filter(|name| name.contains(".lora_")).collect()
}

fn inputs_for_adapters(site: &Site) {
    let inputs = inputs_of(&site.bytes("onnx/lora_model.onnx"));
    let n_layers = site.json("onnx/config.json")["num_hidden_layers"].as_u64().unwrap();
    assert_eq!(inputs.len() as u64, n_layers * 7 * 2);
    assert!(inputs.contains("model.layers.0.self_attn.q_proj.lora_A.weight"), "{inputs:?}");
    assert!(!inputs.iter().any(|name| name.contains("lm_head")));
    assert!(inputs_of(&site.bytes("onnx/model.onnx")).is_empty());
}

fn files_of_process_lora(site: &Site) {
    let inputs = inputs_of(&site.bytes("onnx/lora_model.onnx"));
    for name in ["french", "german", "medical"] {
        let directory = format!("processed/{name}");
        assert!(site.names(&directory).iter().eq(["config.json", "processed_adapter_model.safetensors"]));
        let file = tensors(&site.root.join(&directory).join("processed_adapter_model.safetensors"));
        assert!(file.names().all(|name| inputs.contains(name)), "{name}");
        let peft = tensors(&crate::support::data(&format!("demo/adapters/{name}/adapter_model.safetensors")));
        for tensor_name in file.names() {
            let found = file.require(tensor_name).unwrap();
            let source = peft.require(&format!("base_model.model.{tensor_name}")).unwrap();
            let turned: Vec<usize> = source.shape().iter().rev().copied().collect();
            assert_eq!((found.dtype(), found.shape()), (Dtype::F16, &turned[..]), "{tensor_name}");
        }
    }
}

fn names_of(file: &TensorFile) -> BTreeSet<&str> {
    file.names().collect()
}

fn files_of_merge_lora(site: &Site) {
    let merged = tensors(&site.root.join("merged/model.safetensors"));
    let base = tensors(&crate::support::data("demo/checkpoint/model.safetensors"));
    assert_eq!(names_of(&merged), names_of(&base));
    assert!(merged.names().all(|name| merged.require(name).unwrap().dtype() == Dtype::F16));
    let config = site.json("merged/config.json");
    let dtype = if config["dtype"].is_null() { &config["torch_dtype"] } else { &config["dtype"] };
    assert_eq!(dtype, "float16");
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(site.names("merged").contains(name), "{name}");
    }
}

fn files_of_quantize_llm(site: &Site) {
    for (directory, algorithm, scale) in
        [("quantized", "W4A16_AWQ", "pre_quant_scale"), ("quantized-base", "FP8", "input_scale")]
    {
        let about = site.json(&format!("{directory}/hf_quant_config.json"));
        assert_eq!(about["quantization"]["quant_algo"], algorithm);
        assert!(!site.json(&format!("{directory}/config.json"))["quantization_config"].is_null());
        let file = tensors(&site.root.join(directory).join("model.safetensors"));
        for part in ["weight", "weight_scale", scale] {
            assert!(file.get(&format!("model.layers.0.mlp.up_proj.{part}")).is_some(), "{directory} {part}");
        }
    }
}

fn answers_in_order(site: &Site) {
    let text = String::from_utf8(site.bytes("answers.json")).unwrap();
    let answers: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answers["input_file"], "requests.json");
    for (index, answer) in answers["responses"].as_array().unwrap().iter().enumerate() {
        assert_eq!(
            (&answer["request_idx"], &answer["finish_reason"]),
            (&json!(index), &json!("end-of-sequence"))
        );
        let content = &answer["messages"][0]["content"];
        assert_eq!(content[0]["type"], "text");
        for key in ["output_text", "batch_idx", "formatted_system_prompt", "formatted_complete_request"] {
            assert!(!answer[key].is_null(), "{key}");
        }
    }
    let keys = |indent: &str| -> Vec<&str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(indent)?.strip_prefix('"'));
        lines.map(|line| line.split('"').next().unwrap()).collect()
    };
    assert_eq!(keys("    "), ["input_file", "responses"]);
    let of_first: Vec<&str> = keys("            ").into_iter().take_while(|key| *key != "usage").collect();
    assert!(of_first.is_sorted() && of_first.len() > 6, "{of_first:?}");
}

fn a_profile_is_written(site: &Site) {
    site.ok("run --engineDir engine --inputFile requests.json --outputFile profiled.json --dumpProfile --warmup 1 \
             --profileOutputFile profile.json");
    let profile = site.json("profile.json");
    for (part, key) in [("prefill", "tokens_per_second"), ("generation", "generated_tokens")] {
        assert!(profile[part][key].as_f64() > Some(0.0), "{profile}");
    }
    let stages: Vec<&Value> =
        profile["stages"].as_array().unwrap().iter().map(|stage| &stage["stage_id"]).collect();
    assert_eq!(stages, ["llm_prefill", "llm_generation"]);
    let texts = |name: &str| -> Vec<Value> {
        let answers = site.json(name);
        answers["responses"].as_array().unwrap().iter().map(|answer| answer["output_text"].clone()).collect()
    };
    assert_eq!(texts("profiled.json"), texts("answers.json"));
}

fn greedy_is_without_chance(site: &Site) {
    let mut file = site.json("requests.json");
    let mut answers = Vec::new();
    for seed in [1, 2] {
        file["sampling_seed"] = json!(seed);
        std::fs::write(site.root.join("seeded.json"), file.to_string()).unwrap();
        site.ok("run --engineDir engine --inputFile seeded.json --outputFile seeded-answers.json");
        let found = site.json("seeded-answers.json")["responses"].clone();
        answers.push(
            found.as_array().unwrap().iter().map(|answer| answer["token_ids"].clone()).collect::<Vec<_>>(),
        );
    }
    assert_eq!(answers[0], answers[1]);
}
