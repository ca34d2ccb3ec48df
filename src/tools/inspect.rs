//! `inspect`: what an engine, an adapter or a checkpoint holds, in one screen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::count::Count;
use crate::format::adapter::parse_name;
use crate::format::checkpoint::naming::{Beside, beside};
use crate::format::engine::{Item, PAD_PREFIX, items};
use crate::format::gguf::{GgufFile, read_decoder, read_vocabulary};
use crate::format::{PeftConfig, StoredMatrix, TensorFile};
use crate::numbers::Kind;
use crate::numbers::architecture::{Architecture, RopeScaling};
use crate::numbers::family::{Activation, Norms};
use crate::numbers::kind::kinds_text;
use crate::store::adapter_files::{PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE, PROCESSED_WEIGHTS_FILE};
use crate::store::engine::{TOKENIZER_TABLE_FILE, TOOL_TEMPLATE_FILE};
use crate::store::{Checkpoint, DirectoryKind, Engine, Expected, StoreError, explain, map_file, read_small};
use crate::text::Tokenizer;
use crate::tools::ToolError;
use crate::tools::adapter_facts::AdapterFacts;
use crate::tools::templates::CheckpointTemplate;
use crate::tools::ways_out::instead_of_merging;

/// Longest line, in characters.
const MAX_LINE: usize = 118;

/// Describes a directory, a safetensors file or a GGUF file.
///
/// # Errors
/// [`ToolError`] when the path is none of these or cannot be read.
pub fn inspect(path: &Path) -> Result<String, ToolError> {
    let mut page = Page::default();
    if !path.is_dir() {
        let bytes = map_file(path).map_err(|error| explain(path, Expected::Model, error))?;
        if (*bytes).as_ref().starts_with(b"GGUF") {
            inspect_gguf(path, (*bytes).as_ref(), &mut page)?;
        } else {
            inspect_file(path, &mut page)?;
        }
        return Ok(page.text);
    }
    match DirectoryKind::of(path) {
        DirectoryKind::Engine => inspect_engine(path, &mut page)?,
        DirectoryKind::Checkpoint => inspect_checkpoint(path, &mut page)?,
        DirectoryKind::PeftAdapter => inspect_peft(path, &mut page)?,
        DirectoryKind::ProcessedAdapter => {
            inspect_file(&path.join(PROCESSED_WEIGHTS_FILE), &mut page)?;
        }
        _ => {
            let error = StoreError::NotRegular { path: path.to_owned(), found: "a directory" };
            return Err(explain(path, Expected::Model, error).into());
        }
    }
    Ok(page.text)
}

/// Lines of `name  value`, none too long.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, name: &str, value: impl AsRef<str>) {
        let line = format!("{name:<10} {}", value.as_ref());
        let short: String = match line.char_indices().nth(MAX_LINE) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        };
        let _ = writeln!(self.text, "{}", short.trim_end());
    }
}

fn inspect_engine(path: &Path, page: &mut Page) -> Result<(), ToolError> {
    let engine = Engine::open(path)?;
    let (config, limits) = (&engine.config, &engine.config.limits);
    let version = config.format_version;
    page.line("engine", path.display().to_string());
    page.line("precision", format!("{}, target {}, format {version}", config.precision, config.target));
    page.line(
        "limits",
        format!(
            "batch {}, input {}, context {}, adapter rank {}",
            limits.max_batch_size, limits.max_input_len, limits.max_kv_cache_capacity, limits.max_lora_rank
        ),
    );
    describe_architecture(&config.architecture, page);
    describe_ids(&config.eos_token_ids, config.bos_token_id, page);
    page.line("matrices", kinds_text(stored_kinds(&engine)));
    describe_tensors([&engine.tensors], page);
    page.line("source", &config.source_digest);
    let files = [
        ("tokenizer.json", engine.tokenizer_json.is_some()),
        (TOKENIZER_TABLE_FILE, engine.tokenizer_table.is_some()),
        ("tokenizer_config.json", engine.tokenizer_config.is_some()),
        ("chat_template.jinja", engine.chat_template.is_some()),
        ("processed_chat_template.json", engine.processed_chat_template.is_some()),
        (TOOL_TEMPLATE_FILE, engine.tool_template.is_some()),
    ];
    let there: Vec<&str> = files.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
    page.line("text", if there.is_empty() { "no files".to_owned() } else { there.join(", ") });
    if engine.tokenizer_json.is_none() {
        page.line("warning", "tokenizer.json is missing: this engine knows token ids, but no text");
    }
    if let Some(fault) = table_fault(&engine) {
        page.line("warning", format!("{TOKENIZER_TABLE_FILE} {fault}; build the engine again"));
    }
    if let Some(fault) = template_fault(path) {
        page.line("warning", fault);
    }
    if config.eos_token_ids.is_empty() {
        page.line("warning", "no end-of-sequence token: answers end only at their length");
    }
    Ok(())
}

/// How the matrices of an engine are stored; those that are damaged are left out.
fn stored_kinds(engine: &Engine) -> impl Iterator<Item = Kind> {
    let items = items(&engine.config.architecture, engine.config.precision).into_iter();
    items.filter_map(|item| match item {
        Item::Matrix { name, shape, .. } => {
            StoredMatrix::find(&engine.tensors, &name, shape).ok().map(|matrix| matrix.kind)
        }
        Item::Vector { .. } => None,
    })
}

/// What is wrong with the source of the chat template; what it does is not tried here.
fn template_fault(directory: &Path) -> Option<String> {
    CheckpointTemplate::read(directory)
        .and_then(|template| template.check())
        .err()
        .map(|error| error.to_string())
}

/// What is wrong with the compiled tokenizer, all of it read and compared with what it was compiled from.
fn table_fault(engine: &Engine) -> Option<String> {
    let json = (**engine.tokenizer_json.as_ref()?).as_ref();
    let Some(table) = &engine.tokenizer_table else {
        return Some("is missing: start takes longer and needs more memory".to_owned());
    };
    match Tokenizer::open(Arc::clone(table)) {
        Ok(tokenizer) if !tokenizer.is_intact() => Some("is damaged".to_owned()),
        Ok(tokenizer) if tokenizer.source().sha256[..] != Sha256::digest(json)[..] => {
            Some("is of another tokenizer.json".to_owned())
        }
        Ok(_) => None,
        Err(error) => Some(format!("cannot be used: {error}")),
    }
}

fn inspect_checkpoint(path: &Path, page: &mut Page) -> Result<(), ToolError> {
    let checkpoint = Checkpoint::open_any(path)?;
    page.line("checkpoint", path.display().to_string());
    if let Some(quantization) = &checkpoint.config.quantization {
        page.line("quantized", quantization.name());
    }
    describe_architecture(&checkpoint.config.architecture, page);
    describe_ids(&checkpoint.config.eos_token_ids, checkpoint.config.bos_token_id, page);
    let n_files = checkpoint.shards().count();
    page.line("weights", Count(n_files, "file").to_string());
    describe_tensors(checkpoint.shards().map(|(_, file)| file), page);
    describe_beside(&checkpoint, page);
    page.line("next", "build --modelDir DIR --engineDir DIR");
    Ok(())
}

/// What a larger model has around the backbone.
fn describe_beside(checkpoint: &Checkpoint, page: &mut Page) {
    let family = checkpoint.config.architecture.family;
    let (mut n_tower, mut adapters) = (0, BTreeSet::new());
    for found in checkpoint.names().filter_map(|name| beside(family, name)) {
        match found {
            Beside::Tower(_) => n_tower += 1,
            Beside::OwnAdapter(name) => {
                adapters.insert(name);
            }
        }
    }
    if n_tower > 0 {
        page.line(
            "beside",
            format!("{} for images and sound, which engines leave out", Count(n_tower, "tensor")),
        );
    }
    if !adapters.is_empty() {
        let names = adapters.into_iter().collect::<Vec<_>>().join(", ");
        page.line("adapters", format!("{names}: inside the checkpoint; merge-lora merges one of them"));
    }
}

fn inspect_peft(path: &Path, page: &mut Page) -> Result<(), ToolError> {
    let config_path = path.join(PEFT_CONFIG_FILE);
    let config = PeftConfig::parse(&read_small(&config_path)?).map_err(ToolError::format(&config_path))?;
    page.line("adapter", format!("{} (as PEFT saves it)", path.display()));
    page.line("type", &config.peft_type);
    let scale = if config.use_rslora { "alpha / sqrt(rank)" } else { "alpha / rank" };
    page.line("scale", format!("{scale}: rank {}, alpha {}", config.rank, config.alpha));
    page.line("targets", config.target_modules.join(" "));
    let weights_path = path.join(PEFT_WEIGHTS_FILE);
    let file = open_tensors(&weights_path)?;
    let ranks = file.names().filter(|name| name.contains(".lora_A.")).filter_map(|name| {
        // [rank, in_features]
        file.get(name)?.shape().first().copied()
    });
    describe_ranks(ranks.collect(), page);
    describe_tensors([&file], page);
    for obstacle in &config.obstacles {
        let way = instead_of_merging(obstacle).unwrap_or("use merge-lora");
        page.line("warning", format!("{obstacle}: process-lora refuses it; {way}"));
    }
    let is_merged = config.obstacles.iter().all(|obstacle| instead_of_merging(obstacle).is_none());
    match (config.obstacles.is_empty(), is_merged) {
        (true, _) => page.line("next", "process-lora --input_dir DIR --output_dir DIR"),
        (false, true) => page.line("next", "merge-lora --lora_dir DIR --output_dir DIR"),
        (false, false) => {}
    }
    Ok(())
}

fn inspect_file(path: &Path, page: &mut Page) -> Result<(), ToolError> {
    let file = open_tensors(path)?;
    let format = file.metadata().get("format").map(String::as_str);
    if format == Some("jetspool-engine") {
        page.line("engine", format!("{} (its directory has the configuration)", path.display()));
    } else if file.names().any(|name| parse_name(name).is_some()) {
        describe_processed(path, &file, page);
    } else {
        page.line("tensors of", path.display().to_string());
    }
    for (key, value) in file.metadata() {
        page.line("", format!("{key} = {value}"));
    }
    describe_tensors([&file], page);
    Ok(())
}

fn inspect_gguf(path: &Path, bytes: &[u8], page: &mut Page) -> Result<(), ToolError> {
    let file = GgufFile::parse(bytes).map_err(ToolError::format(path))?;
    page.line("GGUF", format!("{}, version {}", path.display(), file.version));
    for key in ["general.name", "general.license", "adapter.type", "adapter.lora.alpha"] {
        if let Some(text) = file.metadata.get(key) {
            page.line("", format!("{key} = {text}"));
        }
    }
    let kinds = file.tensors().map(|(_, tensor)| (tensor.kind.name().to_owned(), tensor.bytes.len()));
    if file.is_adapter() {
        describe_kinds(kinds.collect(), 0, page);
        page.line("next", "process-lora --ggufFile FILE --engineDir DIR --output_dir DIR");
        return Ok(());
    }
    let decoder = read_decoder(&file, bytes).map_err(ToolError::format(path))?;
    describe_architecture(&decoder.architecture, page);
    let vocabulary = read_vocabulary(&file.metadata, decoder.architecture.vocab_size);
    if let Some(vocabulary) = vocabulary.map_err(ToolError::format(path))? {
        describe_ids(&vocabulary.ends, vocabulary.bos, page);
        let template = if vocabulary.chat_template.is_some() { "with" } else { "without" };
        let pre_tokenizer = vocabulary.pre_tokenizer.unwrap_or("default");
        page.line("text", format!("{}, {pre_tokenizer}, {template} chat template", vocabulary.model));
    }
    describe_kinds(kinds.collect(), 0, page);
    if !decoder.unused.is_empty() {
        let names: Vec<&str> = decoder.unused.iter().map(String::as_str).collect();
        page.line("warning", format!("not of this decoder: {}", crate::format::adapter::listed(&names)));
    }
    page.line("next", "build --ggufFile FILE --engineDir DIR");
    Ok(())
}

fn describe_processed(path: &Path, file: &TensorFile, page: &mut Page) {
    page.line("adapter", format!("{} (processed)", path.display()));
    let facts = AdapterFacts::of(file);
    page.line("targets", facts.target_names().join(" "));
    let last = facts.layers.last().copied().unwrap_or(0);
    page.line("layers", format!("{}, the last is number {last}", Count(facts.layers.len(), "layer")));
    describe_ranks(facts.ranks, page);
    if !facts.unknown.is_empty() {
        let unknown: Vec<&str> = facts.unknown.iter().map(String::as_str).collect();
        let names = crate::format::adapter::listed(&unknown);
        page.line("warning", format!("{} without a projection: {names}", Count(unknown.len(), "tensor")));
    }
}

fn open_tensors(path: &Path) -> Result<TensorFile, ToolError> {
    Ok(TensorFile::parse(map_file(path)?).map_err(StoreError::format(path))?)
}

fn describe_ranks(ranks: BTreeSet<usize>, page: &mut Page) {
    let (Some(least), Some(most)) = (ranks.first(), ranks.last()) else { return };
    let text = if least == most { format!("rank {least}") } else { format!("rank {least} to {most}") };
    page.line("rank", text);
}

fn describe_architecture(a: &Architecture, page: &mut Page) {
    page.line("family", format!("{}, {}", a.family.name(), Count(a.n_layers, "layer")));
    page.line(
        "sizes",
        format!("vocab {}, hidden {}, intermediate {}", a.vocab_size, a.hidden_size, a.intermediate_size),
    );
    page.line("heads", format!("{} of {}, {} for keys and values", a.n_heads, a.head_dim, a.n_kv_heads));
    let mut scaling = match &a.rope.scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Linear { factor } => format!(", linear x{factor}"),
        RopeScaling::Llama3 { factor, .. } => format!(", llama3 x{factor}"),
        RopeScaling::Yarn(yarn) => {
            format!(", yarn x{} beyond {}", yarn.factor, yarn.original_max_positions)
        }
        RopeScaling::Dynamic { factor, max_positions } => {
            format!(", dynamic x{factor} beyond {max_positions}")
        }
        RopeScaling::LongRope { original_max_positions, .. } => {
            format!(", longrope beyond {original_max_positions}")
        }
    };
    if a.rotary_dim() < a.head_dim {
        let _ = write!(scaling, ", {} of {} rotated", a.rotary_dim(), a.head_dim);
    }
    let local = a.local_rope_theta.map(|theta| format!(", {theta} under the window")).unwrap_or_default();
    page.line("positions", format!("{}, rope theta {}{scaling}{local}", a.max_positions, a.rope.theta));
    if let Some(experts) = &a.experts {
        let n_dense = experts.dense_layers.len();
        let (n, used, size) = (experts.n_experts, experts.n_used, experts.intermediate_size);
        page.line(
            "experts",
            format!("{n} of {size} a layer, {used} a token; {} without", Count(n_dense, "layer")),
        );
    }
    let window = a.sliding_window.map(|window| match a.full_layers.len() {
        0 => format!("window of {window}"),
        n => format!("window of {window} in {}", Count(a.n_layers - n, "layer")),
    });
    let flags = [
        (if a.tied_head { "tied head" } else { "own head" }).to_owned(),
        if a.qkv_bias { "q, k, v biases".to_owned() } else { String::new() },
        if a.o_bias { "o bias".to_owned() } else { String::new() },
        if a.qk_norm { "q and k norms".to_owned() } else { String::new() },
        if a.norms == Norms::BeforeAndAfter { "norms of outputs".to_owned() } else { String::new() },
        if a.activation == Activation::GeluTanh { "GELU".to_owned() } else { String::new() },
        window.unwrap_or_default(),
    ];
    let flags: Vec<String> = flags.into_iter().filter(|flag| !flag.is_empty()).collect();
    page.line("has", flags.join(", "));
}

fn describe_ids(eos: &[u32], bos: Option<u32>, page: &mut Page) {
    let bos = bos.map_or_else(|| "none".to_owned(), |id| id.to_string());
    page.line("tokens", format!("end {eos:?}, begin {bos}"));
}

/// Counts and bytes by element type; fillers count as such.
fn describe_tensors<'a>(files: impl IntoIterator<Item = &'a TensorFile>, page: &mut Page) {
    let (mut found, mut n_filled) = (Vec::new(), 0);
    for file in files {
        for name in file.names() {
            let Some(tensor) = file.get(name) else { continue };
            let len = tensor.data().len();
            if name.starts_with(PAD_PREFIX) {
                n_filled += len;
            } else {
                found.push((format!("{:?}", tensor.dtype()), len));
            }
        }
    }
    describe_kinds(found, n_filled, page);
}

/// Counts and bytes by kind; `n_filled` bytes count as such.
fn describe_kinds(found: Vec<(String, usize)>, n_filled: usize, page: &mut Page) {
    let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let n_tensors = found.len();
    let n_bytes = n_filled + found.iter().map(|(_, len)| len).sum::<usize>();
    for (kind, len) in found {
        let entry = kinds.entry(kind).or_default();
        *entry = (entry.0 + 1, entry.1 + len);
    }
    page.line("tensors", format!("{n_tensors}, {}", bytes_text(n_bytes)));
    for (kind, (count, len)) in kinds {
        page.line("", format!("{kind:<5} {count:>5}  {}", bytes_text(len)));
    }
}

fn bytes_text(n_bytes: usize) -> String {
    match n_bytes {
        0..1_000_000 => format!("{:.1} kB", n_bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n_bytes as f64 / 1e6),
        _ => format!("{:.2} GB", n_bytes as f64 / 1e9),
    }
}
