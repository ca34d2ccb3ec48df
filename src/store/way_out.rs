//! The way from what is there to what was wanted: a command, a place, or what to do with a file.

use std::path::Path;

use super::adapter_files::PROCESSED_WEIGHTS_FILE;
use super::directory::DirectoryKind;
use super::engine_files::{TOKENIZER_TABLE_FILE, WEIGHTS_FILE};
use super::expected::Expected;
use super::thing::{Thing, parent_of};
use crate::format::contents::Contents;

/// What to do with a file, whatever it was taken for; none for one that says nothing.
pub(super) fn file_advice(contents: &Contents, path: &Path) -> Option<String> {
    let (shown, folder) = (path.display(), parent_of(path));
    let download = again(path);
    Some(match contents {
        Contents::LfsPointer { .. } => {
            format!("fetch it: git -C {} lfs pull, or {download}", folder.display())
        }
        Contents::WebPage | Contents::Text { .. } => {
            format!("download it again: {download} (a model behind a login needs hf auth login first)")
        }
        Contents::Empty | Contents::Zeros | Contents::CutSafetensors { .. } => {
            format!("the download is probably incomplete; run it again: {download}")
        }
        Contents::Gguf => {
            format!("build takes a model of this kind as it is: jetspool build --ggufFile {shown}")
        }
        Contents::Pickle => {
            "save it as safetensors first: save_pretrained(DIR, safe_serialization=True)".to_owned()
        }
        Contents::Zip => format!("unpack it: unzip {shown} -d DIR"),
        Contents::Tar | Contents::Compressed => format!("unpack it: tar -xf {shown} -C DIR"),
        Contents::Onnx => {
            format!("build takes its directory: jetspool build --onnxDir {}", folder.display())
        }
        Contents::TensorRtEngine => TENSOR_RT.to_owned(),
        Contents::Safetensors => {
            format!("build takes its directory: jetspool build --modelDir {}", folder.display())
        }
        Contents::JsonObject | Contents::JsonArray | Contents::JsonLines => {
            format!("give the file of the weights; if this is it, fetch it again: {download}")
        }
        Contents::ByteOrderMark => format!("take the mark away: sed -i '1s/^\\xEF\\xBB\\xBF//' {shown}"),
        Contents::Utf16 => format!("make UTF-8 of it: iconv -f UTF-16 -t UTF-8 {shown} > NEW"),
        Contents::Unknown => return None,
    })
}

const TENSOR_RT: &str = "it was made for another program; jetspool build makes one of jetspool's from the ONNX directory \
    (--onnxDir) or the checkpoint (--modelDir)";

/// What to do where `thing` is and something else was wanted.
pub(super) fn advice(thing: &Thing, wanted: Expected, path: &Path) -> String {
    match thing {
        Thing::HubName(name) if wanted != Expected::Requests => format!(
            "it looks like the name of a model on a hub; download it and give its directory: hf download {name} \
             --local-dir {}",
            name.rsplit('/').next().unwrap_or("DIR")
        ),
        Thing::Nothing | Thing::HubName(_) => format!("check the path; {}", where_from(wanted)),
        Thing::DanglingLink => format!("repair the link; {}", where_from(wanted)),
        Thing::Directory(kind) => directory_advice(kind, wanted, path),
        Thing::File(contents) => {
            let file = if path.is_file() { path } else { parent_of(path) };
            let folder = parent_of(file);
            match file_advice(contents, file) {
                _ if wanted.is_at(folder) => {
                    format!("give the directory that it lies in: {}", folder.display())
                }
                Some(advice) => advice,
                None => where_from(wanted).to_owned(),
            }
        }
        Thing::Special(_) | Thing::Unseen => where_from(wanted).to_owned(),
    }
}

/// How one comes by what is wanted.
fn where_from(wanted: Expected) -> &'static str {
    match wanted {
        Expected::Engine => "jetspool build --modelDir CHECKPOINT --engineDir DIR makes one",
        Expected::Checkpoint | Expected::Model => "hf download OWNER/NAME --local-dir DIR fetches a model",
        Expected::PeftAdapter => {
            "save_pretrained(DIR) of the adapter writes one, hf download OWNER/NAME --local-dir DIR \
            fetches one"
        }
        Expected::ProcessedAdapter => {
            "jetspool process-lora --input_dir ADAPTER --output_dir DIR makes one, jetspool list \
            shows those at hand"
        }
        Expected::Onnx => "jetspool export-llm --model_dir CHECKPOINT --output_dir DIR makes one",
        Expected::Requests => "docs/requests.md says what one looks like",
        Expected::Gguf => "hf download OWNER/NAME FILE.gguf --local-dir DIR fetches one",
    }
}

/// The way from the directory that is there to what is wanted.
fn directory_advice(kind: &DirectoryKind, wanted: Expected, path: &Path) -> String {
    use DirectoryKind as Kind;
    let shown = path.display();
    let build =
        |flag: &str, source: &Path| format!("jetspool build {flag} {} --engineDir DIR", source.display());
    match (wanted, kind) {
        (_, Kind::Around(inner)) => format!("give the one in it: {}", inner.display()),
        (Expected::Gguf | Expected::Model, Kind::Gguf(file)) => format!("give the file in it: {}", file.display()),
        (_, Kind::TensorRtEngine) => TENSOR_RT.to_owned(),
        (_, Kind::NoWeights) => format!("fetch the weights: {}", download(path)),
        (Expected::Engine, Kind::Checkpoint) => format!("make one of it: {}", build("--modelDir", path)),
        (Expected::Engine, Kind::Onnx) => format!("make one of it: {}", build("--onnxDir", path)),
        (Expected::Engine, Kind::Gguf(file)) => format!("make one of it: {}", build("--ggufFile", file)),
        (Expected::Engine, Kind::HubCache(snapshot)) => format!("make one of it: {}", build("--modelDir", snapshot)),
        (Expected::Engine | Expected::Checkpoint, Kind::PeftAdapter | Kind::ProcessedAdapter) => {
            "give its model's here, and the adapter where one is asked for: process-lora --input_dir, merge-lora \
             --lora_dir, --lora, lora_name of a request"
                .to_owned()
        }
        (Expected::Checkpoint, Kind::Engine) => "give the checkpoint that it was built from".to_owned(),
        (Expected::Checkpoint, Kind::Onnx) => {
            format!("build takes it so: {}; give others the checkpoint that it came from", build("--onnxDir", path))
        }
        (Expected::Checkpoint, Kind::Gguf(file)) => format!(
            "build takes it so: {}; give others the model's safetensors",
            build("--ggufFile", file)
        ),
        (_, Kind::HubCache(snapshot)) => format!("give the snapshot in it: {}", snapshot.display()),
        (Expected::Model, Kind::Onnx) => format!("build takes it so: {}", build("--onnxDir", path)),
        (Expected::Onnx | Expected::Gguf, Kind::Checkpoint) => format!("build takes it so: {}", build("--modelDir", path)),
        (Expected::PeftAdapter, Kind::ProcessedAdapter) => {
            "it is ready for use; give others the directory that it was made from".to_owned()
        }
        (Expected::ProcessedAdapter, Kind::PeftAdapter) => {
            format!("make one of it: jetspool process-lora --input_dir {shown} --output_dir DIR")
        }
        (Expected::Checkpoint, Kind::Empty) => format!("fetch a model: {}", download(path)),
        _ => where_from(wanted).to_owned(),
    }
}

/// The command by which one comes by a file again.
pub(super) fn again(path: &Path) -> String {
    let folder = parent_of(path);
    let has_name = |name: &str| path.file_name().is_some_and(|found| found == name);
    if has_name(WEIGHTS_FILE) || has_name(TOKENIZER_TABLE_FILE) || folder.join(WEIGHTS_FILE).is_file() {
        return format!("jetspool build --modelDir CHECKPOINT --engineDir {}", folder.display());
    }
    if has_name(PROCESSED_WEIGHTS_FILE) {
        return format!("jetspool process-lora --input_dir ADAPTER --output_dir {}", folder.display());
    }
    download(folder)
}

/// The command that fetches a model into a directory.
fn download(folder: &Path) -> String {
    format!("hf download OWNER/NAME --local-dir {}", folder.display())
}
