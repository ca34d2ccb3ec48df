"""Writes a checkpoint of a real model's shape with random weights and a made-up tokenizer of its size.

For measuring speed and memory where no real checkpoint can be downloaded: the work of a step does not
depend on the values. With --gguf the same weights are written as llama.cpp's F16 file too. Example:

    python scripts/make_random_checkpoint.py --shape qwen2.5-0.5b --out /tmp/qwen2.5-0.5b
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import product
from pathlib import Path

import numpy as np
from checkpoints import SHAPES, gguf_name, interleaved, n_rotated_heads, random_tensor, tensor_shapes, write_safetensors

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
N_PIECES = {151936: 151643, 128256: 128000}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_characters() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes as (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]


def make_tokenizer(n_pieces: int) -> dict:
    """A byte-level BPE with Qwen2's pre-tokenizer whose merges join tokens at random-looking places."""
    pieces = byte_characters()
    known, merges = set(pieces), []
    for left, right in product(range(1000), repeat=2):
        if len(pieces) == n_pieces:
            break
        joined = pieces[left] + pieces[right]
        if joined not in known:
            known.add(joined)
            merges.append([pieces[left], pieces[right]])
            pieces.append(joined)
    special = [
        {"id": n_pieces + i, "content": text, "special": True, "normalized": False, "lstrip": False, "rstrip": False,
         "single_word": False}
        for i, text in enumerate(SPECIALS)
    ]  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": merges,
        },
    }


def write_checkpoint(out: Path, config: dict, tokenizer: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shapes = tensor_shapes(config)
    tensors = (random_tensor(name, shape) for name, shape in shapes.items())
    write_safetensors(out / "model.safetensors", "BF16", shapes, tensors)
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    named = {"eos_token": SPECIALS[2], "chat_template": CHAT_TEMPLATE}
    (out / "tokenizer_config.json").write_text(json.dumps(named, indent=2), encoding="utf-8")


def llama3_factors(config: dict) -> np.ndarray:
    """What each frequency of the rotation is divided by, as llama.cpp's own converter writes it."""
    scaling, half = config["rope_scaling"], config["head_dim"] // 2
    wavelengths = 2 * math.pi * config["rope_theta"] ** (np.arange(half) / half)
    turns = scaling["original_max_position_embeddings"] / wavelengths
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / scaling["factor"] + smooth)).astype(np.float32)


def write_gguf(path: Path, config: dict, tokenizer: dict) -> None:
    """Matrices as F16, the rest as F32; tensor after tensor, so that memory holds one."""
    import gguf

    architecture = config["model_type"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokens(writer, gguf.TokenType, config, tokenizer)
    shapes = tensor_shapes(config)
    for name, shape in shapes.items():
        dtype = np.dtype(np.float16 if len(shape) == 2 else np.float32)
        writer.add_tensor_info(gguf_name(name), shape, dtype, int(np.prod(shape)) * dtype.itemsize)
    if "rope_scaling" in config:
        factors = llama3_factors(config)
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape in shapes.items():
        tensor = random_tensor(name, shape)
        if n_heads := n_rotated_heads(config, name):
            tensor = interleaved(tensor, n_heads)
        writer.write_tensor_data(tensor.astype(np.float16) if len(shape) == 2 else tensor)
    if "rope_scaling" in config:
        writer.write_tensor_data(factors)
    writer.close()


def add_tokens(writer, kinds, config: dict, tokenizer: dict) -> None:
    model = tokenizer["model"]
    tokens = [*model["vocab"], *SPECIALS]
    types = [kinds.NORMAL] * len(model["vocab"]) + [kinds.CONTROL] * len(SPECIALS)
    n_unused = config["vocab_size"] - len(tokens)
    tokens += [f"[PAD{len(tokens) + i}]" for i in range(n_unused)]
    types += [kinds.UNUSED] * n_unused
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe" if config["model_type"] == "llama" else "qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--out", type=Path, help="directory of the checkpoint")
    parser.add_argument("--gguf", type=Path, help="file for llama.cpp (needs the package gguf)")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    n_pieces = N_PIECES[shape["vocab_size"]]
    config = shape | {"bos_token_id": n_pieces, "eos_token_id": n_pieces + 2}
    tokenizer = make_tokenizer(n_pieces)
    if arguments.out:
        write_checkpoint(arguments.out, config, tokenizer)
    if arguments.gguf:
        write_gguf(arguments.gguf, config, tokenizer)


if __name__ == "__main__":
    main()
