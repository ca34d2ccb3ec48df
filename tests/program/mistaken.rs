//! Paths that lead to something else than was meant: each message says what was found, what was wanted, what to do.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::service::{build_demo, jetspool, ok, process_demo};
use crate::support::serving::{Installed, NOBODY, is_emulated};
use crate::support::{data, json as read_json};

/// A file of the demo model, where there is another one in its place.
struct Broken {
    name: &'static str,
    file: &'static str,
    bytes: Vec<u8>,
}

/// What the program says of a command in the folder, and its exit code.
fn said(folder: &Path, words: &str) -> (Option<i32>, String) {
    let words: Vec<&str> = words.split(' ').collect();
    let output = jetspool(&words).current_dir(folder).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The first three commands that do not say what they should.
fn check(folder: &Path, cases: &[(&str, i32, &str)]) {
    let wrong = cases.iter().filter_map(|(words, code, wanted)| {
        let (found, text) = said(folder, words);
        let is_told = found == Some(*code) && text.lines().any(|line| line == format!("jetspool: {wanted}"));
        (!is_told).then(|| format!("{words}\n  {found:?} {text}  wanted {code}: {wanted}"))
    });
    let wrong: Vec<String> = wrong.take(3).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A folder with a checkpoint, an engine, an adapter as PEFT saves it and processed, and an ONNX directory.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    copy(&data("demo/checkpoint"), &root.join("checkpoint"));
    copy(&data("demo/adapters/french"), &root.join("adapter"));
    build_demo(&root.join("engine"), "int8", &[]);
    process_demo("french", &root.join("processed"));
    ok(jetspool(&["export-llm", "--model_dir", "checkpoint", "--output_dir", "onnx"]).current_dir(root));
    folder
}

fn pointer() -> Vec<u8> {
    let digest = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 988097824\n").into_bytes()
}

const CHECKPOINT: &str = "a checkpoint: a directory with config.json and model.safetensors or its shards";
const ENGINE: &str = "an engine directory, as jetspool build writes it";
const PROCESSED: &str = "an adapter as jetspool process-lora writes it";

#[test]
fn files_that_were_not_fetched_are_told_by_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let whole = fs::read(data("demo/checkpoint/model.safetensors")).unwrap();
    let config = fs::read_to_string(data("demo/checkpoint/config.json")).unwrap();
    let (weights, tokenizer) = ("model.safetensors", "tokenizer.json");
    let page = b"<!DOCTYPE html>\n<html><title>404</title></html>".to_vec();
    let comma = format!("{},\n}}\n", config.trim_end().trim_end_matches('}').trim_end());
    let n_lines = comma.lines().count();
    let broken = [
        Broken { name: "pointer", file: weights, bytes: pointer() },
        Broken { name: "page", file: weights, bytes: page.clone() },
        Broken { name: "cut", file: weights, bytes: whole[..whole.len() - 1000].to_vec() },
        Broken { name: "empty", file: weights, bytes: Vec::new() },
        Broken { name: "pickle", file: weights, bytes: b"\x80\x02}q\0.".to_vec() },
        Broken { name: "gguf", file: weights, bytes: b"GGUF\x03\0\0\0".to_vec() },
        Broken { name: "zip", file: weights, bytes: b"PK\x03\x04\x14\0\0\0".to_vec() },
        Broken { name: "token", file: tokenizer, bytes: pointer() },
        Broken { name: "config", file: "config.json", bytes: page },
        Broken { name: "mark", file: "config.json", bytes: [b"\xef\xbb\xbf", config.as_bytes()].concat() },
        Broken { name: "comma", file: "config.json", bytes: comma.into_bytes() },
        Broken {
            name: "said",
            file: "generation_config.json",
            bytes: b"Invalid username or password.".to_vec(),
        },
    ];
    for Broken { name, file, bytes } in broken {
        copy(&data("demo/checkpoint"), &root.join(name));
        fs::write(root.join(name).join(file), bytes).unwrap();
    }
    let login = "(a model behind a login needs hf auth login first)";
    let cases = [
        (
            "pointer",
            "pointer/model.safetensors is a git-lfs pointer to a file of 988097824 bytes, wanted the whole file; fetch \
             it: git -C pointer lfs pull, or hf download OWNER/NAME --local-dir pointer"
                .to_owned(),
        ),
        (
            "page",
            format!(
                "page/model.safetensors is a web page (HTML or XML), as a server sends it in place of a file, wanted a \
                 safetensors file; download it again: hf download OWNER/NAME --local-dir page {login}"
            ),
        ),
        (
            "cut",
            format!(
                "cut/model.safetensors is a safetensors file of {} bytes without its end: 1000 bytes are missing, wanted \
                 the whole file; the download is probably incomplete; run it again: hf download OWNER/NAME --local-dir \
                 cut",
                whole.len() - 1000
            ),
        ),
        (
            "empty",
            "empty/model.safetensors is an empty file, wanted a safetensors file; the download is probably incomplete; \
             run it again: hf download OWNER/NAME --local-dir empty"
                .to_owned(),
        ),
        (
            "pickle",
            "pickle/model.safetensors is a pickle of PyTorch, wanted a safetensors file; save it as safetensors first: \
             save_pretrained(DIR, safe_serialization=True)"
                .to_owned(),
        ),
        (
            "gguf",
            "gguf/model.safetensors is a GGUF file, wanted a safetensors file; build takes a model of this kind as it \
             is: jetspool build --ggufFile gguf/model.safetensors"
                .to_owned(),
        ),
        (
            "zip",
            "zip/model.safetensors is a zip archive, wanted a safetensors file; unpack it: unzip \
             zip/model.safetensors -d DIR"
                .to_owned(),
        ),
        (
            "token",
            "the text files of token: token/tokenizer.json is a git-lfs pointer to a file of 988097824 bytes, wanted \
             the whole file; fetch it: git -C token lfs pull, or hf download OWNER/NAME --local-dir token"
                .to_owned(),
        ),
        (
            "config",
            format!(
                "config/config.json is a web page (HTML or XML), as a server sends it in place of a file, wanted JSON; \
                 download it again: hf download OWNER/NAME --local-dir config {login}"
            ),
        ),
        (
            "mark",
            "mark/config.json is text that begins with a byte order mark (BOM), wanted JSON; take the mark away: sed -i \
             '1s/^\\xEF\\xBB\\xBF//' mark/config.json"
                .to_owned(),
        ),
        (
            "comma",
            format!(
                "comma/config.json is damaged: trailing comma at line {n_lines} column 1, wanted JSON; correct it there, \
                 or fetch it again: hf download OWNER/NAME --local-dir comma"
            ),
        ),
        (
            "said",
            format!(
                "said/generation_config.json is a text that begins \"Invalid username or password.\", wanted JSON; \
                 download it again: hf download OWNER/NAME --local-dir said {login}"
            ),
        ),
    ];
    let commands =
        cases.map(|(name, wanted)| (format!("build --modelDir {name} --engineDir engine"), wanted));
    let cases: Vec<(&str, i32, &str)> =
        commands.iter().map(|(words, wanted)| (words.as_str(), 65, wanted.as_str())).collect();
    check(root, &cases);
    // The advice is right: the mark is gone after it.
    let mark = "sed -i '1s/^\\xEF\\xBB\\xBF//' mark/config.json";
    ok(std::process::Command::new("sh").args(["-c", mark]).current_dir(root));
    assert_eq!(fs::read_to_string(root.join("mark/config.json")).unwrap(), config);
}

#[test]
fn directories_are_told_by_what_they_are() {
    let folder = folder();
    let root = folder.path();
    for empty in ["empty", "tensorrt", "cache/snapshots", "around"] {
        fs::create_dir_all(root.join(empty)).unwrap();
    }
    fs::write(root.join("tensorrt/config.json"), r#"{"builder_config": {"max_batch_size": 4}}"#).unwrap();
    fs::write(root.join("tensorrt/llm.engine"), b"ftrt\0\0\0\0").unwrap();
    for at in ["cache/snapshots/1f2e", "around/model", "weightless", "configless", "linked", "shards"] {
        copy(&root.join("checkpoint"), &root.join(at));
    }
    for gone in ["weightless/model.safetensors", "configless/config.json", "linked/model.safetensors"] {
        fs::remove_file(root.join(gone)).unwrap();
    }
    symlink("../../blobs/1f2e", root.join("linked/model.safetensors")).unwrap();
    fs::remove_file(root.join("shards/model.safetensors")).unwrap();
    let shards: serde_json::Map<String, Value> =
        (0..30).map(|i| (format!("t{i}"), json!(format!("model-{i:05}-of-00030.safetensors")))).collect();
    fs::write(root.join("shards/model.safetensors.index.json"), json!({"weight_map": shards}).to_string())
        .unwrap();
    fs::create_dir(root.join("llama.cpp")).unwrap();
    fs::copy(data("gguf/qwen2.gguf"), root.join("llama.cpp/model-Q4_K_M.gguf")).unwrap();
    fs::write(root.join("r.json"), r#"{"requests": [{"messages": [{"role": "user", "content": "Hi"}]}]}"#)
        .unwrap();
    let cut = fs::read(data("gguf/qwen2.gguf")).unwrap();
    fs::write(root.join("cut.gguf"), &cut[..cut.len() - 500]).unwrap();
    let tensor_rt = "it was made for another program; jetspool build makes one of jetspool's from the ONNX directory \
        (--onnxDir) or the checkpoint (--modelDir)";
    let download = "hf download Qwen/Qwen2.5-0.5B-Instruct --local-dir Qwen2.5-0.5B-Instruct";
    let hub = format!(
        "Qwen/Qwen2.5-0.5B-Instruct is not there, wanted {CHECKPOINT}; it looks like the name of a model on a hub; \
         download it and give its directory: {download}"
    );
    let address = format!("https://huggingface.co/{hub}");
    let twenty: Vec<String> = (0..20).map(|i| format!("model-{i:05}-of-00030.safetensors")).collect();
    let shards = format!(
        "shards: 30 shards of model.safetensors.index.json missing: {} and 10 more; fetch them: hf \
         download OWNER/NAME --local-dir shards",
        twenty.join(", ")
    );
    let of_adapter = "give its model's here, and the adapter where one is asked for: process-lora --input_dir, \
        merge-lora --lora_dir, --lora, lora_name of a request";
    let cases: [(&str, i32, String); 23] = [
        ("build --modelDir Qwen/Qwen2.5-0.5B-Instruct --engineDir e", 66, hub),
        ("build --modelDir https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct --engineDir e", 66, address),
        (
            "merge-lora --model_dir nowhere --lora_dir adapter --output_dir m",
            66,
            format!("nowhere is not there, wanted {CHECKPOINT}; check the path; hf download OWNER/NAME --local-dir DIR fetches a model"),
        ),
        ("run --engineDir tensorrt --inputFile r.json --outputFile o.json", 65, format!("tensorrt is an engine of TensorRT, wanted {ENGINE}; {tensor_rt}")),
        ("list --engineDir tensorrt", 65, format!("tensorrt is an engine of TensorRT, wanted {ENGINE}; {tensor_rt}")),
        ("logits --engineDir checkpoint --tokens 1 --outputFile x", 65, format!("checkpoint is a checkpoint, wanted {ENGINE}; make one of it: jetspool build --modelDir checkpoint --engineDir DIR")),
        ("ask x --engineDir onnx", 65, format!("onnx is an ONNX directory, wanted {ENGINE}; make one of it: jetspool build --onnxDir onnx --engineDir DIR")),
        ("bench --mode decode --engineDir engine/llm.engine", 65, format!("engine/llm.engine is a safetensors file, wanted {ENGINE}; give the directory that it lies in: engine")),
        ("run --engineDir adapter --inputFile r.json --outputFile o.json", 65, format!("adapter is an adapter as PEFT saves it, wanted {ENGINE}; {of_adapter}")),
        ("build --modelDir engine --engineDir e", 65, format!("engine is an engine, wanted {CHECKPOINT}; give the checkpoint that it was built from")),
        ("quantize-llm --quantization fp8 --model_dir adapter --output_dir q", 65, format!("adapter is an adapter as PEFT saves it, wanted {CHECKPOINT}; {of_adapter}")),
        ("export-llm --model_dir llama.cpp --output_dir x", 65, format!("llama.cpp is a directory with a GGUF file, wanted {CHECKPOINT}; build takes it so: jetspool build --ggufFile llama.cpp/model-Q4_K_M.gguf --engineDir DIR; give others the model's safetensors")),
        ("build --modelDir cache --engineDir e", 65, format!("cache is a repository in the cache of huggingface_hub, wanted {CHECKPOINT}; give the snapshot in it: cache/snapshots/1f2e")),
        ("build --modelDir around --engineDir e", 65, format!("around is a directory around another one, wanted {CHECKPOINT}; give the one in it: around/model")),
        ("build --modelDir empty --engineDir e", 65, format!("empty is an empty directory, wanted {CHECKPOINT}; fetch a model: hf download OWNER/NAME --local-dir empty")),
        ("build --modelDir weightless --engineDir e", 65, format!("weightless is a checkpoint without its weights, wanted {CHECKPOINT}; fetch the weights: hf download OWNER/NAME --local-dir weightless")),
        ("build --modelDir configless --engineDir e", 66, "configless/config.json is not there, wanted a file of the checkpoint; fetch it, or copy it from where the others came from: hf download OWNER/NAME --local-dir configless".to_owned()),
        ("build --modelDir linked --engineDir e", 66, "linked/model.safetensors is a link to a file that is not there; mend it or remove it (cp -rL copies a snapshot of the hub's cache with the files that its links lead to)".to_owned()),
        ("build --modelDir shards --engineDir e", 66, shards),
        ("process-lora --input_dir checkpoint --output_dir p", 65, "checkpoint is a checkpoint, wanted an adapter as PEFT saves it: a directory with adapter_config.json and adapter_model.safetensors; save_pretrained(DIR) of the adapter writes one, hf download OWNER/NAME --local-dir DIR fetches one".to_owned()),
        ("logits --engineDir engine --tokens 1 --outputFile x --device cpu --lora adapter", 65, format!("adapter is an adapter as PEFT saves it, wanted {PROCESSED}; make one of it: jetspool process-lora --input_dir adapter --output_dir DIR")),
        ("build --onnxDir checkpoint --engineDir e", 65, "checkpoint is a checkpoint, wanted an ONNX directory, as export-llm writes it; build takes it so: jetspool build --modelDir checkpoint --engineDir DIR".to_owned()),
        ("build --ggufFile llama.cpp --engineDir e", 65, "llama.cpp is a directory with a GGUF file, wanted a GGUF file; give the file in it: llama.cpp/model-Q4_K_M.gguf".to_owned()),
    ];
    let cases: Vec<(&str, i32, &str)> =
        cases.iter().map(|(words, code, wanted)| (*words, *code, wanted.as_str())).collect();
    check(root, &cases);
    let (_, cut) = said(root, "build --ggufFile cut.gguf --engineDir e");
    let is_told =
        ["bytes are missing at its end", "wanted a GGUF file", "hf download OWNER/NAME --local-dir"];
    assert!(is_told.iter().all(|text| cut.contains(text)), "{cut}");
}

#[test]
fn the_data_of_an_onnx_model_is_told_apart_from_its_graph() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    ok(jetspool(&["export-llm", "--output_dir", "onnx", "--model_dir"])
        .arg(data("demo/checkpoint"))
        .current_dir(root));
    let whole = fs::read(root.join("onnx/onnx_model.data")).unwrap();
    let build = "build --onnxDir onnx --engineDir e";
    let said_of = |bytes: &[u8]| {
        fs::write(root.join("onnx/onnx_model.data"), bytes).unwrap();
        said(root, build).1
    };
    let cut = said_of(&whole[..whole.len() / 2]);
    let n_bytes = whole.len() / 2;
    assert!(
        cut.contains(&format!("onnx/onnx_model.data is a file of {n_bytes} bytes without its end: tensor ")),
        "{cut}"
    );
    assert!(cut.contains("wanted the whole file; the download or the copy is incomplete"), "{cut}");
    let pointer = said_of(&pointer());
    assert!(
        pointer.contains("onnx_model.data is a git-lfs pointer to a file of 988097824 bytes"),
        "{pointer}"
    );
    fs::remove_file(root.join("onnx/onnx_model.data")).unwrap();
    check(
        root,
        &[(
            build,
            66,
            "onnx/onnx_model.data is not there, wanted model.onnx or a file that it needs; fetch it, or copy \
        it from where the others came from: hf download OWNER/NAME --local-dir onnx",
        )],
    );
    // Another exporter keeps the numbers of the graph's arithmetic there too.
    copy(&crate::support::reference("onnx/newer_qwen2"), &root.join("newer"));
    let data = fs::read_dir(root.join("newer")).unwrap().map(|entry| entry.unwrap().path());
    let data: Vec<_> = data.filter(|path| path.to_string_lossy().ends_with(".data")).collect();
    for path in &data {
        fs::write(path, b"x").unwrap();
    }
    let (_, text) = said(root, "build --onnxDir newer --engineDir e");
    assert!(
        data.len() == 1 && text.contains("without its end: a number of model.onnx ends at byte "),
        "{text}"
    );
}

#[test]
fn adapters_of_requests_are_told_by_what_they_are() {
    let folder = folder();
    let root = folder.path();
    fs::write(root.join("pointer.safetensors"), pointer()).unwrap();
    let answer = |path: &str| {
        let request = json!({"messages": [{"role": "user", "content": "Hello"}], "lora_name": "x"});
        let file =
            json!({"max_generate_length": 1, "available_lora_weights": {"x": path}, "requests": [request]});
        fs::write(root.join("r.json"), file.to_string()).unwrap();
        said(root, "run --engineDir engine --inputFile r.json --outputFile o.json");
        let error = &read_json(&root.join("o.json"))["responses"][0]["error"];
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        fs::remove_file(root.join("o.json")).unwrap();
        (text("code"), text("message").replace("requests[0].lora_name: adapter \"x\": ", ""))
    };
    let real = fs::canonicalize(root).unwrap();
    let real = real.display();
    let cases = [
        (
            "nowhere/a.safetensors".to_owned(),
            "adapter-refused",
            format!(
                "nowhere/a.safetensors is not there, wanted {PROCESSED}; check the path; jetspool process-lora \
                 --input_dir ADAPTER --output_dir DIR makes one, jetspool list shows those at hand"
            ),
        ),
        (
            "someone/an-adapter".to_owned(),
            "adapter-refused",
            format!(
                "someone/an-adapter is not there, wanted {PROCESSED}; it looks like the name of a model on a hub; \
                 download it and give its directory: hf download someone/an-adapter --local-dir an-adapter"
            ),
        ),
        (
            "/nowhere/a.safetensors".to_owned(),
            "adapter-refused",
            format!(
                "/nowhere/a.safetensors is not there, wanted {PROCESSED}; check the path; jetspool process-lora \
                 --input_dir ADAPTER --output_dir DIR makes one, jetspool list shows those at hand"
            ),
        ),
        (
            "adapter".to_owned(),
            "adapter-refused",
            format!(
                "{real}/adapter is an adapter as PEFT saves it, wanted {PROCESSED}; make one of it: jetspool \
                 process-lora --input_dir {real}/adapter --output_dir DIR"
            ),
        ),
        (
            "pointer.safetensors".to_owned(),
            "adapter-mismatch",
            format!(
                "{real}/pointer.safetensors is a git-lfs pointer to a file of 988097824 bytes, wanted the whole file; \
                 fetch it: git -C {real} lfs pull, or hf download OWNER/NAME --local-dir {real}"
            ),
        ),
        (
            "checkpoint/model.safetensors".to_owned(),
            "adapter-mismatch",
            format!(
                "requests[0].lora_name: adapter \"x\" ({real}/checkpoint/model.safetensors): none of its tensors (50) is \
                 an adapter's, wanted names with lora_A and lora_B; give what process-lora wrote"
            ),
        ),
    ];
    for (path, code, message) in cases {
        assert_eq!(answer(&path), (code.to_owned(), message), "{path}");
    }
}

#[test]
fn what_is_no_spool_is_told_once_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    copy(&data("demo/checkpoint"), &root.join("checkpoint"));
    fs::create_dir_all(root.join("spool/new")).unwrap();
    fs::write(root.join("r.json"), r#"{"requests": [{"messages": [{"role": "user", "content": "Hi"}]}]}"#)
        .unwrap();
    let commands = [
        "status",
        "status x",
        "status --json",
        "errors",
        "submit r.json",
        "hold --all",
        "release x",
        "requeue --all",
        "delete x",
        "flush",
    ];
    for (place, found) in
        [("nowhere", "not there"), ("r.json", "a file"), ("checkpoint", "another directory")]
    {
        let wanted = format!(
            "{place} is {found}, wanted a spool: a directory with new/ in it; jetspool serve makes one where its \
             configuration says (spool = DIR), the package makes /var/spool/jetspool; name another one with --spool DIR"
        );
        for command in commands {
            check(root, &[(&format!("{command} --spool {place}"), 66, &wanted)]);
        }
    }
    assert!(!root.join("checkpoint/new").exists() && !root.join("checkpoint/lock").exists());
    // One that no daemon has worked on yet.
    let output = ok(jetspool(&["status", "--spool", "spool"]).current_dir(root));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("no permission") && text.contains("failed           0"), "{text}");
}

#[test]
fn who_has_no_rights_is_told_which_group_to_join() {
    if !nix::unistd::geteuid().is_root() || is_emulated() {
        eprintln!("SKIPPED: only root can be other users, and an emulator does not know their groups");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let installed = Installed::new(folder.path(), "");
    let spool = installed.bench.place("");
    let group =
        nix::unistd::Group::from_gid(NOBODY.into()).unwrap().map_or(NOBODY.to_string(), |group| group.name);
    let request = folder.path().join("r.json");
    fs::write(&request, r#"{"requests": [{"messages": [{"role": "user", "content": "Hi"}]}]}"#).unwrap();
    let spool = spool.to_str().unwrap();
    let output = installed
        .command(&["submit", request.to_str().unwrap(), "--spool", spool], 3000, 3000)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let join = format!("join the group: sudo usermod -aG {group} 3000, then log in again");
    assert!(output.status.code() == Some(77) && text.contains(&join), "{text}");
    assert!(text.contains("is closed to 3000: it belongs to ") && text.contains("may write to"), "{text}");
}
