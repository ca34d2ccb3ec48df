"""Writes a checkpoint of a real model's shape with random weights and a made-up tokenizer of its size.

For measuring speed and memory where no real checkpoint can be downloaded: the work of a step does not
depend on the values. Example:

    python scripts/make_random_checkpoint.py --shape qwen2.5-0.5b --out /tmp/qwen2.5-0.5b
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

SHAPES = {
    "qwen2.5-0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
N_PIECES = 151643
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


def make_tokenizer() -> dict:
    """A byte-level BPE with Qwen2's pre-tokenizer whose merges join tokens at random-looking places."""
    pieces = byte_characters()
    known, merges = set(pieces), []
    for left, right in product(range(1000), repeat=2):
        if len(pieces) == N_PIECES:
            break
        joined = pieces[left] + pieces[right]
        if joined not in known:
            known.add(joined)
            merges.append([pieces[left], pieces[right]])
            pieces.append(joined)
    special = [
        {"id": N_PIECES + i, "content": text, "special": True, "normalized": False, "lstrip": False, "rstrip": False,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = Qwen2Config(max_position_embeddings=32768, rope_theta=1e6, eos_token_id=N_PIECES + 2, **SHAPES[arguments.shape])
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(arguments.out)
    (arguments.out / "tokenizer.json").write_text(json.dumps(make_tokenizer(), ensure_ascii=False), encoding="utf-8")
    named = {"eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE}
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(named, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
