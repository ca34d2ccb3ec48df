"""Shapes of real models, the names of their tensors, and the writer of checkpoint files. Needs numpy only."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False}
QWEN_WORDS = {"vocab_size": 151936, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
COMMON = {"tie_word_embeddings": True, "hidden_act": "silu", "torch_dtype": "bfloat16", "use_cache": True}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def sizes(hidden: int, intermediate: int, n_layers: int, n_heads: int, n_kv_heads: int, head_dim: int) -> dict:
    """The sizes of a decoder as config.json names them."""
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": head_dim,
    }


# The config.json of each shape, without the ids of special tokens.
SHAPES = {
    "qwen2.5-0.5b": COMMON | QWEN2 | QWEN_WORDS | sizes(896, 4864, 24, 14, 2, 64),
    "qwen2.5-1.5b": COMMON | QWEN2 | QWEN_WORDS | sizes(1536, 8960, 28, 12, 2, 128),
    "qwen3-0.6b": COMMON | QWEN3 | QWEN_WORDS | sizes(1024, 3072, 28, 16, 8, 128),
    "llama-3.2-1b": COMMON
    | LLAMA
    | {"vocab_size": 128256, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072}
    | {"rope_scaling": LLAMA3_ROPE}
    | sizes(2048, 8192, 16, 32, 8, 64),
}

# Modules of a layer: name in a checkpoint, name in a GGUF file.
LINEAR = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
IN_LAYERS = LINEAR | NORMS | HEAD_NORMS


def linear_shapes(config: dict) -> dict[str, tuple[int, int]]:
    """Rows and columns of the linear modules of a layer."""
    hidden, intermediate, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    n_q, n_kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    rows_columns = [(n_q, hidden), (n_kv, hidden), (n_kv, hidden), (hidden, n_q)]
    return dict(zip(LINEAR, [*rows_columns, (intermediate, hidden), (intermediate, hidden), (hidden, intermediate)]))


def tensor_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint with a tied head."""
    hidden = config["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for norm in NORMS:
            shapes[f"{prefix}{norm}.weight"] = (hidden,)
        if config["model_type"] == "qwen3":
            for norm in HEAD_NORMS:
                shapes[f"{prefix}{norm}.weight"] = (config["head_dim"],)
        for module, shape in linear_shapes(config).items():
            shapes[f"{prefix}{module}.weight"] = shape
            if config["model_type"] == "qwen2" and module.endswith(("q_proj", "k_proj", "v_proj")):
                shapes[f"{prefix}{module}.bias"] = shape[:1]
    shapes["model.norm.weight"] = (hidden,)
    return shapes


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values that depend on the name alone, as bf16 holds them: norms of 1, the rest of a deviation of 0.02."""
    if "norm" in name:
        return np.ones(shape, np.float32)
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return from_bf16(to_bf16(random.standard_normal(shape, np.float32) * np.float32(0.02)))


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight` there."""
    module, kind = name.rsplit(".", 1)
    if module in OUTER:
        return f"{OUTER[module]}.{kind}"
    _, _, layer, module = module.split(".", 3)
    return f"blk.{layer}.{IN_LAYERS[module]}.{kind}"


def checkpoint_name(name: str) -> str:
    """The other way round."""
    module, kind = name.rsplit(".", 1)
    for ours, theirs in OUTER.items():
        if theirs == module:
            return f"{ours}.{kind}"
    _, layer, module = module.split(".", 2)
    return f"model.layers.{layer}.{ {theirs: ours for ours, theirs in IN_LAYERS.items()}[module] }.{kind}"


def interleaved(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of q or k in the order that GGUF keeps for the llama architecture, whose rotation takes neighbours."""
    halves = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def half_split(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Back to the order of checkpoints."""
    pairs = rows.reshape(n_heads, rows.shape[0] // n_heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def n_rotated_heads(config: dict, name: str) -> int:
    """How many heads of a tensor GGUF keeps in another order: 0 for most."""
    if config["model_type"] != "llama":
        return 0
    counts = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    return next((count for module, count in counts.items() if f".{module}." in name), 0)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to nearest, ties to even; the upper halves."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(halves: np.ndarray) -> np.ndarray:
    return (halves.astype(np.uint32) << 16).view(np.float32)


def write_safetensors(path: Path, kind: str, shapes: dict[str, tuple], tensors: Iterable[np.ndarray]) -> None:
    """Writes tensors of one kind ("F32" or "BF16", given as f32) as they come, in the order of `shapes`."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        n_bytes = int(np.prod(shape)) * (4 if kind == "F32" else 2)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape, tensor in zip(shapes.values(), tensors, strict=True):
            assert tensor.shape == shape
            file.write((to_bf16(tensor) if kind == "BF16" else tensor.astype(np.float32)).tobytes())
