//! What does not fit is refused with advice, and what is not applied is told.

use jetspool::numbers::Precision;
use jetspool::tools::{BuildReport, ToolError, build};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::support::{Parts, changed, checkpoint, names, options, refused};

#[test]
fn precisions_that_do_not_fit_are_refused_with_advice() {
    for (name, precision) in [
        ("int4_awq", Precision::Int8),
        ("fp8", Precision::Int8),
        ("fp8", Precision::Int4),
        ("mixed", Precision::Int4),
        ("int8_sq", Precision::Int4),
    ] {
        let said = refused(&checkpoint(name), precision);
        assert!(said.contains("quantized as") && said.contains("leave --precision out"), "{name}: {said}");
    }
    for (name, precision) in [("gptq_order", Precision::Int4), ("int8_sq", Precision::Int8)] {
        let scratch = tempfile::tempdir().unwrap();
        let report = build(&options(&checkpoint(name), scratch.path(), precision)).unwrap();
        assert_eq!(report.config.precision, Precision::Stored, "{name}");
    }
    // What meets f32 may be rounded again, to meet codes.
    for (precision, kinds) in
        [(Precision::Int4, "7 int4 in blocks of 32 with minima, 2 int8"), (Precision::Int8, "9 int8")]
    {
        let scratch = tempfile::tempdir().unwrap();
        let report = build(&options(&checkpoint("nf4"), scratch.path(), precision)).unwrap();
        assert_eq!(report.kinds, kinds);
    }
}

#[test]
fn notes_say_what_is_not_applied() {
    let built = |name: &str| -> BuildReport {
        let scratch = tempfile::tempdir().unwrap();
        build(&options(&checkpoint(name), scratch.path(), Precision::Stored)).unwrap()
    };
    let fp8 = built("fp8").warnings.join("\n");
    assert!(fp8.contains("8 input_scale") && fp8.contains("kv_cache_quant_algo FP8"), "{fp8}");
    assert!(!fp8.contains("not used"), "{fp8}");
    let fp4 = built("fp4").warnings.join("\n");
    let told = "1 quantized matrices become f16";
    assert!(fp4.contains(told) && fp4.contains("model.layers.0.mlp.down_proj.weight"), "{fp4}");
    assert!(!built("nf4").warnings.join("\n").contains("become f16"));
    for name in names() {
        let warnings = built(name).warnings;
        let other: Vec<_> = warnings.iter().filter(|line| !line.contains("not applied")).collect();
        // max_kv_cache_capacity is above the model's 512 positions, and there is no text.
        let known = ["matrices become f16", "positions", "tokenizer.json", "no chat template"];
        let is_known = |line: &String| known.iter().any(|known| line.contains(known));
        assert!(other.into_iter().all(is_known), "{name}: {warnings:?}");
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let set = |key: &'static str, value: Value| {
        move |config: &mut Value| config["quantization_config"][key] = value.clone()
    };
    let cases = [
        ("awq_g64", set("version", json!("gemv")), "gemv"),
        ("awq_g64", set("bits", json!(8)), "8"),
        ("ct_packed", set("quantization_status", json!("frozen")), "frozen"),
        ("awq_g64", set("group_size", json!(48)), "group_size"),
        ("gptq_order", set("bits", json!(3)), "3"),
        ("gptq_order", set("checkpoint_format", json!("marlin")), "marlin"),
        ("gptq_order", set("quant_method", json!("hqq")), "hqq"),
        ("gptq_order", set("group_size", json!(128)), "128 for the 64 inputs"),
    ];
    for (name, config, said) in cases {
        let model = changed(name, |_| {}, config);
        let message = refused(model.path(), Precision::Stored);
        assert!(message.contains(said), "{name}: {message}");
    }
    // What quantize-llm of release 0.5 left: plain weights with the numbers that would quantize them.
    let amax = |parts: &mut Parts| {
        let name = "model.layers.0.mlp.up_proj.weight_quantizer._amax".to_owned();
        parts.insert(name, (Dtype::F16, vec![1], vec![0, 0x3c]));
    };
    let message = refused(changed("int4_awq", amax, |_| {}).path(), Precision::Stored);
    assert!(message.contains("_amax") && message.contains("quantize again"), "{message}");
}

#[test]
fn other_tools_refuse_them() {
    let error = jetspool::store::Checkpoint::open(&checkpoint("fp8")).err().unwrap();
    assert!(error.to_string().contains("hf_quant_config.json"), "{error}");
    let error = ToolError::from(jetspool::store::Checkpoint::open(&checkpoint("awq_g64")).err().unwrap());
    assert!(error.to_string().contains("config.json") && error.exit_code() == 65, "{error}");
}
