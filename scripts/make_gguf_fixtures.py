#!/usr/bin/env python3
"""Writes the fixtures under tests/data/gguf with the package gguf, which is ggml's own.

blocks/KIND.bin: a few blocks of random bytes with sane scales; blocks/KIND.f32: what gguf.quants makes of them.
MODEL.gguf: the first layers of reference models as llama.cpp's converter writes them, in the types of their
checkpoints; MODEL.json: the config.json that says the same. TOKENIZER.vocabulary.gguf: metadata without tensors.
llama_blocks.gguf and llama_k_blocks.gguf: layers of blocks that engines keep. yarn*.gguf: metadata and a table;
yarn*.json: the config.json that says the same. pieces*.vocabulary.gguf: vocabularies that sentencepiece trained;
pieces*.json: texts and the ids that it gives them.

    python -m venv /tmp/v && /tmp/v/bin/pip install -r scripts/requirements-bench.txt sentencepiece==0.2.3
    /tmp/v/bin/python scripts/make_gguf_fixtures.py
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from checkpoints import gguf_name, interleaved
from gguf.quants import dequantize, quantize

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
OUT = DATA / "gguf"
MODELS = DATA / "references" / "models"
KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
# Where the f16 numbers of a block stand.
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3_ROPE["original_max_position_embeddings"] = 64
# The second layer has no window; queries are scaled as the file's reader has it.
GEMMA = {"num_hidden_layers": 2, "layer_types": None, "sliding_window_pattern": 2, "query_pre_attn_scalar": 24}
# Model, its architecture, its tokenizer, what its configuration says otherwise.
GGUFS = [
    ("llama_gqa", "llama", None, {"num_hidden_layers": 1}),
    ("llama_bias", "llama", None, {"rope_scaling": LLAMA3_ROPE, "num_hidden_layers": 1}),
    ("qwen2", "qwen2", "qwen2", {"num_hidden_layers": 1}),
    ("qwen3", "qwen3", None, {"num_hidden_layers": 1}),
    ("phi3", "phi3", None, {}),
    ("phi3_short", "phi3", None, {}),
    ("gemma3", "gemma3", None, GEMMA),
]
# Some of the matrices' blocks; the others are Q4_0.
QUANTIZED = "llama_blocks"
Q8_0 = gguf.GGMLQuantizationType.Q8_0
BLOCKS = {"embed_tokens": Q8_0, "gate_proj": Q8_0, "up_proj": gguf.GGMLQuantizationType.Q5_0}
# Blocks of the second such file: rows of 256, and of 32 what has as many inputs.
K_BLOCKS = {
    "embed_tokens": "Q6_K",
    "q_proj": "Q4_K",
    "k_proj": "Q5_K",
    "v_proj": "Q6_K",
    "o_proj": "Q5_1",
    "gate_proj": "Q4_K",
    "up_proj": "Q5_K",
    "down_proj": "Q4_1",
}
K_CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": 256,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
YARNS = {"yarn": YARN, "yarn_given": YARN | {"beta_fast": 24.0, "beta_slow": 1.5, "attention_factor": 1.25}}
# Models whose adapter becomes a file, their architecture, and the adapter.
LORAS = [("llama_bias", "llama", "all_r8"), ("phi3_short", "phi3", "fused_patterns")]
# tokenizer.ggml.pre of tokenizers.
PRE = {"llama3": "llama-bpe", "qwen2": "qwen2"}


def make_blocks() -> None:
    (OUT / "blocks").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(15)
    for name in KINDS:
        kind = gguf.GGMLQuantizationType[name]
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        n_blocks = 6 if block_len == 256 else 12 if block_len == 32 else 96
        if name == "F32":
            raw = rng.normal(size=(1, n_blocks)).astype("<f4").view(np.uint8)
        elif name in ("F16", "BF16"):
            numbers = rng.normal(size=(1, n_blocks)).astype("<f4")
            raw = numbers.astype("<f2").view(np.uint8) if name == "F16" else np.ascontiguousarray(numbers.view("<u2")[:, 1::2]).view(np.uint8)
        else:
            raw = rng.integers(0, 256, size=(n_blocks, block_bytes), dtype=np.uint8)
            for at in HALVES[name]:
                raw[:, at : at + 2] = rng.normal(scale=0.02, size=(n_blocks, 1)).astype("<f2").view(np.uint8)
            raw = raw.reshape(1, -1)
        (OUT / "blocks" / f"{name}.bin").write_bytes(raw.tobytes())
        (OUT / "blocks" / f"{name}.f32").write_bytes(dequantize(raw, kind).astype("<f4").tobytes())


def read_tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors by name; bf16 as the u16 that it is."""
    types = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    for name, info in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = info["data_offsets"]
            array = np.frombuffer(data[start + first : start + last], dtype=types[info["dtype"]])
            yield name, array.reshape(info["shape"])


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    return {name: values for path in sorted(folder.glob("model*.safetensors")) for name, values in read_tensors(path)}


# What Gemma calls otherwise, or has besides.
GEMMA_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
FUSED = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}


def name_in_gguf(name: str, architecture: str) -> str:
    module = name.split(".")[-2]
    if architecture == "gemma3" and module in GEMMA_NORMS:
        return f"blk.{name.split('.')[2]}.{GEMMA_NORMS[module]}.weight"
    for module, theirs in FUSED.items():
        if f".{module}." in name:
            return f"blk.{name.split('.')[2]}.{theirs}.weight"
    return "output.weight" if name == "lm_head.weight" else gguf_name(name)


def add_config(writer: gguf.GGUFWriter, config: dict) -> None:
    n_heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or hidden // n_heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 1)))
    if config.get("head_dim"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config["model_type"] == "gemma3_text":
        writer.add_sliding_window(config["sliding_window"])
        writer.add_uint32("gemma3.attention.sliding_window_pattern", config["sliding_window_pattern"])
    if config["model_type"] == "phi3":
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
        writer.add_sliding_window(config["sliding_window"] or 0)
    add_scaling(writer, config, head_dim)


def add_scaling(writer: gguf.GGUFWriter, config: dict, head_dim: int) -> None:
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "llama3":
        factors = []
        old = scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        for i in range(0, head_dim, 2):
            wavelength = 2 * np.pi * config["rope_theta"] ** (i / head_dim)
            smooth = min(max((old / wavelength - low) / (high - low), 0), 1)
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
        writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    if kind in ("longrope", "su"):
        old = config["original_max_position_embeddings"]
        scale = config["max_position_embeddings"] / old
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(old))) if scale > 1 else 1.0)
        for name in ("long", "short"):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(scaling[f"{name}_factor"], dtype=np.float32))
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if "beta_fast" in scaling:
            writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
        if "attention_factor" in scaling:
            writer.add_rope_scaling_yarn_attn_factor(scaling["attention_factor"])


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: str, config: dict) -> None:
    folder = DATA / "references" / "tokenizers" / tokenizer
    parts = json.loads((folder / "tokenizer.json").read_text())
    by_id = {id: (token, gguf.TokenType.NORMAL) for token, id in parts["model"]["vocab"].items()}
    for token in parts["added_tokens"]:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        by_id[token["id"]] = (token["content"], kind)
    unused = ((f"[PAD{i}]", gguf.TokenType.UNUSED) for i in range(config["vocab_size"]))
    rows = [by_id.get(i, pad) for i, pad in enumerate(unused)]
    merges = parts["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE[tokenizer])
    writer.add_token_list([token for token, _ in rows])
    writer.add_token_types([kind for _, kind in rows])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    ends = config["eos_token_id"]
    writer.add_eos_token_id(ends[0] if isinstance(ends, list) else ends)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_chat_template((folder / "chat_template.jinja").read_text())


def make_model(name: str, architecture: str, tokenizer: str | None, changes: dict, quantized: str = "") -> None:
    config = json.loads((MODELS / name / "config.json").read_text()) | changes
    if not quantized:
        (OUT / f"{name}.json").write_text(json.dumps(config, indent=1) + "\n")
    writer = gguf.GGUFWriter(OUT / f"{quantized or name}.gguf", architecture)
    add_config(writer, config)
    if tokenizer:
        add_vocabulary(writer, tokenizer, config)
    tensors = read_checkpoint(MODELS / name)
    for tensor, values in tensors.items():
        if tensor.startswith("model.layers.") and int(tensor.split(".")[2]) >= config["num_hidden_layers"]:
            continue
        counts = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        n_heads = next((n for module, n in counts.items() if f".{module}." in tensor), 0)
        if architecture == "llama" and n_heads:
            values = interleaved(values, n_heads)
        if quantized and values.ndim == 2:
            kind = BLOCKS.get(tensor.split(".")[-2], gguf.GGMLQuantizationType.Q4_0)
            writer.add_tensor(name_in_gguf(tensor, architecture), quantize(values.astype("<f4"), kind), raw_dtype=kind)
            continue
        if architecture == "gemma3" and tensor.endswith("norm.weight"):
            values = values.astype("<f4") + 1
        raw = gguf.GGMLQuantizationType.BF16 if values.dtype == np.dtype("<u2") else None
        if values.ndim == 1 and raw is not None:
            values, raw = (values.astype("<u4") << 16).view("<f4"), None
        elif values.ndim == 1:
            values = values.astype("<f4")
        writer.add_tensor(name_in_gguf(tensor, architecture), values.view(np.uint8) if raw is not None else values, raw_dtype=raw)
    finish(writer)


def random_blocks(rng: np.random.Generator, kind: gguf.GGMLQuantizationType, shape: tuple[int, int], size: float) -> np.ndarray:
    """Rows of random bytes whose scales are about `size`."""
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, size=(shape[0] * shape[1] // block_len, block_bytes), dtype=np.uint8)
    for at in HALVES[kind.name]:
        raw[:, at : at + 2] = rng.normal(scale=size, size=(len(raw), 1)).astype("<f2").view(np.uint8)
    return raw.reshape(shape[0], -1)


def make_k_blocks() -> None:
    rng = np.random.default_rng(16)
    writer = gguf.GGUFWriter(OUT / "llama_k_blocks.gguf", "llama")
    add_config(writer, K_CONFIG)
    hidden, inner, head_dim = K_CONFIG["hidden_size"], K_CONFIG["intermediate_size"], K_CONFIG["head_dim"]
    n_heads, n_kv_heads = K_CONFIG["num_attention_heads"], K_CONFIG["num_key_value_heads"]
    shapes = {"q_proj": (n_heads * head_dim, hidden), "o_proj": (hidden, n_heads * head_dim), "down_proj": (hidden, inner)}
    shapes |= {"k_proj": (n_kv_heads * head_dim, hidden), "v_proj": (n_kv_heads * head_dim, hidden)}
    shapes["embed_tokens"] = (K_CONFIG["vocab_size"], hidden)
    for module, name in K_BLOCKS.items():
        kind, shape = gguf.GGMLQuantizationType[name], shapes.get(module, (inner, hidden))
        inside = "self_attn" if module[0] in "qkvo" else "mlp"
        tensor = f"model.layers.0.{inside}.{module}.weight" if module != "embed_tokens" else "model.embed_tokens.weight"
        raw = random_blocks(rng, kind, shape, 5e-4 if name.endswith("K") else 0.02)
        writer.add_tensor(gguf_name(tensor), raw, raw_dtype=kind)
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"):
        writer.add_tensor(name, rng.uniform(0.5, 1.5, size=hidden).astype("<f4"))
    finish(writer)


def make_yarn(name: str, scaling: dict) -> None:
    config = json.loads((MODELS / "qwen3" / "config.json").read_text()) | {"vocab_size": 8, "rope_scaling": scaling}
    (OUT / f"{name}.json").write_text(json.dumps(config, indent=1) + "\n")
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", "qwen3")
    add_config(writer, config)
    writer.add_tensor("token_embd.weight", np.zeros((8, config["hidden_size"]), dtype="<f2"))
    finish(writer)


def make_lora(model: str, architecture: str, adapter: str) -> None:
    """As llama.cpp's convert_lora_to_gguf.py writes it: one alpha, names of the base's tensors, rows in their order."""
    config = json.loads((MODELS / model / "config.json").read_text())
    folder = MODELS / model / "adapters" / adapter
    writer = gguf.GGUFWriter(OUT / f"{model}.{adapter}.gguf", architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, json.loads((folder / "adapter_config.json").read_text())["lora_alpha"])
    counts = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, values in read_tensors(folder / "adapter_model.safetensors"):
        module, part = name.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".lora_", 1)
        if values.dtype == np.dtype("<u2"):
            values = (values.astype("<u4") << 16).view("<f4")
        n_heads = counts.get(module.rsplit(".", 1)[1])
        if architecture == "llama" and part == "B" and n_heads:
            values = interleaved(values, n_heads)
        writer.add_tensor(f"{name_in_gguf(module + '.weight', architecture)}.lora_{part.lower()}", values)
    finish(writer)


def make_vocabulary(tokenizer: str) -> None:
    config = json.loads((MODELS / tokenizer / "config.json").read_text())
    writer = gguf.GGUFWriter(OUT / f"{tokenizer}.vocabulary.gguf", "llama")
    add_vocabulary(writer, tokenizer, config)
    finish(writer)


# sentencepiece's kinds of pieces as GGUF has them.
PIECE_KINDS = [
    ("is_unknown", gguf.TokenType.UNKNOWN),
    ("is_control", gguf.TokenType.CONTROL),
    ("is_unused", gguf.TokenType.UNUSED),
    ("is_byte", gguf.TokenType.BYTE),
]
TEXTS = [
    "",
    "Hello",
    " Hello  world",
    "The adapter is loaded twice,\nand once more.\n\n\tEnd",
    "naïve café – 東京 🦀 e\u0301",
    "    indented   lines    ",
    "0123456789 3.14159",
    "▁ under▁score",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


def make_pieces(name: str, has_prefix: bool) -> None:
    """As Llama 2 (with a prefix) and Gemma have it: byte pairs, bytes for what is unknown, spaces as they are."""
    trained = io.BytesIO()
    text = (Path(__file__).resolve().parent.parent / "data" / "calibration.txt").read_text()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.split("\n")),
        model_writer=trained,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=has_prefix,
        character_coverage=1.0,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
        num_threads=1,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    ids = range(len(pieces))
    kind = lambda id: next((kind for test, kind in PIECE_KINDS if getattr(pieces, test)(id)), gguf.TokenType.NORMAL)
    writer = gguf.GGUFWriter(OUT / f"{name}.vocabulary.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(id) for id in ids])
    writer.add_token_scores([pieces.get_score(id) for id in ids])
    writer.add_token_types([kind(id) for id in ids])
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.add_unk_token_id(pieces.unk_id())
    writer.add_add_space_prefix(has_prefix)
    finish(writer)
    cases = [{"text": text, "ids": pieces.encode(text), "decoded": pieces.decode(pieces.encode(text))} for text in TEXTS]
    (OUT / f"{name}.json").write_text(json.dumps(cases, indent=1) + "\n")


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    make_blocks()
    for row in GGUFS:
        make_model(*row)
    make_model("llama_bias", "llama", None, {"rope_scaling": LLAMA3_ROPE, "num_hidden_layers": 1}, QUANTIZED)
    make_k_blocks()
    for name, scaling in YARNS.items():
        make_yarn(name, scaling)
    for row in LORAS:
        make_lora(*row)
    for tokenizer in PRE:
        make_vocabulary(tokenizer)
    make_pieces("pieces", has_prefix=True)
    make_pieces("pieces_plain", has_prefix=False)


if __name__ == "__main__":
    main()
