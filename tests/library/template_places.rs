//! Which of a checkpoint's chat templates counts, as in transformers: of a build's engine, and of what tools carry on.

use std::fs;
use std::path::{Path, PathBuf};

use jetspool::answer::TextFiles;
use jetspool::numbers::Precision;
use jetspool::text::{ChatMessage, ChatTemplate, RenderOptions, SpecialTokens};
use jetspool::tools::{BuildOptions, ExportOptions, build, export};
use serde_json::{Value, json};

use crate::support::build_options;

fn references() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references")
}

fn cases() -> Vec<Value> {
    let path = references().join("template_places.json");
    let whole: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(whole["messages"], json!([{"role": "user", "content": "Hi"}]));
    whole["cases"].as_array().unwrap().clone()
}

/// A small checkpoint with the case's files.
fn checkpoint(case: &Value, directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let model = references().join("models/qwen2");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(model.join(name), directory.join(name)).unwrap();
    }
    fs::copy(references().join("tokenizers/qwen2/tokenizer.json"), directory.join("tokenizer.json")).unwrap();
    for (name, content) in case["files"].as_object().unwrap() {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.as_str().unwrap()).unwrap();
    }
}

fn options(model_dir: &Path, engine_dir: &Path) -> BuildOptions {
    build_options(model_dir, engine_dir, Precision::F16, 0)
}

fn rendered(template: &ChatTemplate, tools: Option<&Value>) -> String {
    let options = RenderOptions { tools, ..RenderOptions::default() };
    let rendered = template.render(&[ChatMessage::new("user", "Hi")], &options);
    rendered.unwrap().prompt.text().to_owned()
}

/// Without tools, and with some.
fn both(template: &ChatTemplate) -> [String; 2] {
    let tools = json!([{"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}}]);
    [rendered(template, None), rendered(template, Some(&tools))]
}

fn wanted(case: &Value) -> Option<[String; 2]> {
    let text = |key: &str| case[key].as_str().map(str::to_owned);
    Some([text("rendered")?, text("with_tools")?])
}

#[test]
fn engines_have_the_template_that_transformers_takes() {
    let mut n_rendered = 0;
    for case in cases() {
        let scratch = tempfile::tempdir().unwrap();
        let (model_dir, engine_dir) = (scratch.path().join("model"), scratch.path().join("engine"));
        checkpoint(&case, &model_dir);
        let name = case["name"].as_str().unwrap();
        let built = build(&options(&model_dir, &engine_dir));
        if let Some(names) = case["names"].as_array() {
            let error = built.unwrap_err().to_string();
            let is_said = names.iter().all(|name| error.contains(name.as_str().unwrap()));
            assert!(is_said && error.contains("no default"), "{name}: {error}");
            assert!(!engine_dir.exists(), "{name}");
            continue;
        }
        let warnings = built.unwrap().warnings.join("\n");
        let files = TextFiles::read(&engine_dir).unwrap();
        let template = files.template(&SpecialTokens::new([])).unwrap();
        assert_eq!(template.as_ref().map(both), wanted(&case), "{name}");
        n_rendered += usize::from(template.is_some());
        assert_eq!(warnings.contains("apply_chat_template"), template.is_none(), "{name}: {warnings}");
        let has_several = name.contains(" and ") && !name.contains("null") || name.contains("with a default");
        // The second is for tools.
        let has_several = has_several && name != "file and named files";
        let is_said = warnings.contains("the chat template is that of") && warnings.contains("not used");
        if has_several || name.contains("called default") {
            assert!(is_said, "{name}: {warnings}");
        }
        if ["string", "file", "processor", "list of a default"].contains(&name) {
            assert!(!warnings.contains("template"), "{name}: {warnings}");
        }
    }
    assert!(n_rendered >= 12, "{n_rendered}");
}

/// The way over ONNX ends at the same template.
#[test]
fn exports_keep_the_template() {
    for case in cases().iter().filter(|case| case["rendered"].is_string()) {
        let scratch = tempfile::tempdir().unwrap();
        let (model_dir, output_dir) = (scratch.path().join("model"), scratch.path().join("onnx"));
        checkpoint(case, &model_dir);
        let export_options =
            ExportOptions { model_dir, output_dir: output_dir.clone(), precision: Precision::F16 };
        export(&export_options).unwrap();
        let files = TextFiles::read(&output_dir).unwrap();
        let template = files.template(&SpecialTokens::new([])).unwrap().unwrap();
        assert_eq!(both(&template), wanted(case).unwrap(), "{}", case["name"]);
    }
}
