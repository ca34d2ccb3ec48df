//! `build --ggufFile`: a GGUF file to an engine directory. Its weights are decoded and stored at the wanted precision;
//! without one, blocks that engines can hold stay as they are.

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::run::{
    BuildOptions, BuildReport, Prepared, Spreads, check_output, engine_config, keep_packed, limit_warnings,
    set_head, write_engine,
};
use super::text_files::TextFiles;
use crate::count::Count;
use crate::format::adapter::listed;
use crate::format::engine::{Item, items};
use crate::format::gguf::{
    GgufFile, GgufPlace, GgufTensor, GgufVocabulary, gguf_place, read_decoder, read_vocabulary,
};
use crate::format::{Bytes, FormatError};
use crate::numbers::Precision;
use crate::numbers::architecture::Architecture;
use crate::numbers::family::Family;
use crate::store::{Expected, explain, map_file};
use crate::text::{VocabularyParts, assemble_tokenizer};
use crate::tools::ToolError;
use crate::tools::weights::gguf::{gguf_rows, kept_kind};
use crate::tools::weights::source::RowSource;

/// Builds an engine from a GGUF file, which `model_dir` names.
///
/// # Errors
/// [`ToolError`]; nothing is left behind then.
pub fn build_gguf(options: &BuildOptions) -> Result<BuildReport, ToolError> {
    let path = &options.model_dir;
    let bytes = map_file(path).map_err(|error| explain(path, Expected::Gguf, error))?;
    let all: &[u8] = (*bytes).as_ref();
    let file = GgufFile::parse(all).map_err(ToolError::format(path))?;
    if file.is_adapter() {
        return Err(ToolError::Refused {
            path: path.to_owned(),
            what: "is an adapter, not a model".to_owned(),
            advice: "give it to jetspool process-lora --ggufFile, with the engine of its model",
        });
    }
    let decoder = read_decoder(&file, all).map_err(ToolError::format(path))?;
    refuse_unused(path, &decoder.unused)?;
    check_output(options)?;
    let is_kept = |(_, tensor): (&str, &GgufTensor)| kept_kind(tensor.kind).is_some();
    let precision = match options.precision {
        Precision::Stored if !file.tensors().any(is_kept) => Precision::F16,
        wanted => wanted,
    };
    let options = &BuildOptions { precision, ..options.clone() };
    let vocabulary = read_vocabulary(&file.metadata, decoder.architecture.vocab_size);
    let vocabulary = vocabulary.map_err(ToolError::format(path))?;
    let (ends, begin) = vocabulary.as_ref().map_or_else(Default::default, |v| (v.ends.clone(), v.bos));
    let texts = text_files(path, vocabulary.as_ref(), decoder.architecture.family)?;
    let config = engine_config(options, decoder.architecture, ends, begin)?;
    let mut items = items(&config.architecture, precision);
    let sources = find_sources(&file, &bytes, &config.architecture, &items, path)?;
    keep_packed(&mut items, &sources, precision);
    set_head(&mut items, options.head);
    let warnings = limit_warnings(&config);
    let prepared = Prepared { config, items, sources, spreads: Spreads::new(), warnings };
    write_engine(options, prepared, texts, || {
        Sha256::digest(all).iter().map(|byte| format!("{byte:02x}")).collect()
    })
}

/// A tensor that nothing here computes with would be missing from the answers.
fn refuse_unused(path: &Path, unused: &[String]) -> Result<(), ToolError> {
    if unused.is_empty() {
        return Ok(());
    }
    let unused: Vec<&str> = unused.iter().map(String::as_str).collect();
    Err(ToolError::Refused {
        path: path.to_owned(),
        what: format!("{} of no decoder that is known: {}", Count(unused.len(), "tensor"), listed(&unused)),
        advice: "give the model's checkpoint with --modelDir",
    })
}

fn find_sources(
    file: &GgufFile,
    bytes: &Bytes,
    architecture: &Architecture,
    items: &[Item],
    path: &Path,
) -> Result<Vec<RowSource>, ToolError> {
    let place = |item: &Item| -> Result<GgufPlace, ToolError> {
        let missing = || FormatError::MissingTensor { name: item.name().to_owned() };
        gguf_place(architecture, item.name()).ok_or_else(missing).map_err(ToolError::format(path))
    };
    let places = items.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let missing = places.iter().map(|place| place.tensor.as_str()).filter(|name| file.tensor(name).is_none());
    let missing: BTreeSet<&str> = missing.collect();
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.into_iter().collect();
        let (count, names) = (missing.len(), listed(&missing));
        return Err(ToolError::MissingTensors { path: path.to_owned(), count, names });
    }
    let rows = |(item, place): (&Item, &GgufPlace)| gguf_rows(file, bytes, place, &item.logical_shape());
    items.iter().zip(&places).map(rows).collect::<Result<_, _>>().map_err(ToolError::format(path))
}

/// tokenizer.json and tokenizer_config.json, as the file's vocabulary gives them.
fn text_files(
    path: &Path,
    vocabulary: Option<&GgufVocabulary>,
    family: Family,
) -> Result<TextFiles, ToolError> {
    let Some(vocabulary) = vocabulary else { return TextFiles::made(path, None) };
    let named_tokens = [
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos),
        ("unk_token", vocabulary.unknown),
        ("pad_token", vocabulary.padding),
    ];
    let named_tokens: Vec<(&str, u32)> =
        named_tokens.into_iter().filter_map(|(name, id)| Some((name, id?))).collect();
    let flags = [("add_bos_token", vocabulary.add_bos), ("add_eos_token", vocabulary.add_eos)];
    let flags: Vec<(&str, bool)> = flags.into_iter().filter_map(|(name, flag)| Some((name, flag?))).collect();
    let parts = VocabularyParts {
        model: vocabulary.model,
        pre_tokenizer: vocabulary.pre_tokenizer,
        tokens: &vocabulary.tokens,
        kinds: &vocabulary.kinds,
        merges: &vocabulary.merges,
        scores: &vocabulary.scores,
        add_space_prefix: vocabulary.add_space_prefix,
        strips_behind: family == Family::Phi3,
        named_tokens: &named_tokens,
        flags: &flags,
        chat_template: vocabulary.chat_template,
    };
    let wrong = |source| ToolError::Tokenizer { path: path.to_owned(), source };
    let files = assemble_tokenizer(&parts).map_err(wrong)?;
    TextFiles::made(path, Some((files.tokenizer, files.config)))
}
