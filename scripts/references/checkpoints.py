"""Tiny random checkpoints in the layout of Hugging Face.

The weights are wide enough for logits of order 10 and for attention that looks at something;
each family keeps what makes it different (biases, q/k norms, scaled RoPE, windows, odd sizes).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from .common import normal, seeded

# Standard deviation of a weight times sqrt(its input width).
GAINS = {
    "q_proj": 1.5, "k_proj": 1.5, "v_proj": 1.2, "o_proj": 1.2,
    "gate_proj": 1.2, "up_proj": 1.2, "down_proj": 2.5, "lm_head": 3.0,
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """One model: its configuration and how it is saved."""

    name: str
    about: str
    config: PretrainedConfig
    dtype: torch.dtype
    short_len: int = 7
    max_shard_size: str = "5GB"
    edit_config: Callable[[dict[str, Any]], None] | None = field(default=None)


def sizes(hidden: int, inter: int, layers: int, heads: int, kv: int, vocab: int) -> dict[str, int]:
    """The size fields that all families share."""
    return {
        "hidden_size": hidden, "intermediate_size": inter, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab,
        "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def like_older_transformers(config: dict[str, Any]) -> None:
    """Older checkpoints say torch_dtype and leave head_dim out."""
    del config["head_dim"]
    config["torch_dtype"] = config.pop("dtype")


def without_head_dim(config: dict[str, Any]) -> None:
    """head_dim is then hidden_size / num_attention_heads."""
    del config["head_dim"]


LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

CHECKPOINTS = [
    Checkpoint(
        "qwen2", "q/k/v biases, tied head, bf16; takes tokenizers/qwen2",
        Qwen2Config(
            **sizes(64, 160, 2, 4, 2, 608) | {"bos_token_id": 596, "eos_token_id": 598},
            tie_word_embeddings=True, rope_theta=1e6, rms_norm_eps=1e-6,
        ),
        torch.bfloat16,
    ),
    Checkpoint(
        "qwen2_odd", "odd sizes (head_dim 12), untied, f32",
        Qwen2Config(**sizes(72, 100, 2, 6, 2, 263), tie_word_embeddings=False, rope_theta=1e6, rms_norm_eps=1e-6),
        torch.float32,
    ),
    Checkpoint(
        "qwen3", "q_norm and k_norm, head_dim 32 is not hidden/heads (16), tied, f16",
        Qwen3Config(**sizes(64, 128, 2, 4, 2, 320), head_dim=32, tie_word_embeddings=True, rope_theta=1e6),
        torch.float16,
    ),
    Checkpoint(
        "llama3", "llama3 RoPE scaling, untied, bf16, sharded, eos list; takes tokenizers/llama3",
        LlamaConfig(
            **sizes(128, 128, 2, 8, 2, 608) | {"bos_token_id": 596, "eos_token_id": [597, 600]},
            rope_theta=500000.0, rope_scaling=LLAMA3_ROPE, tie_word_embeddings=False, rms_norm_eps=1e-5,
        ),
        torch.bfloat16, max_shard_size="200KB", edit_config=without_head_dim,
    ),
    Checkpoint(
        "llama_mqa", "one k/v head, plain RoPE, tied, f32, config in the older spelling",
        LlamaConfig(**sizes(64, 112, 2, 4, 1, 300), rope_theta=10000.0, attention_bias=False, tie_word_embeddings=True),
        torch.float32, edit_config=like_older_transformers,
    ),
    Checkpoint(
        "llama_gqa", "9 heads of 10 on 3 k/v heads, tied, bf16",
        LlamaConfig(**sizes(90, 140, 2, 9, 3, 331), rope_theta=10000.0, tie_word_embeddings=True, rms_norm_eps=1e-5),
        torch.bfloat16,
    ),
    Checkpoint(
        "llama_bias", "attention_bias and mlp_bias (q, k, v, o, gate, up, down have biases), untied, f16",
        LlamaConfig(**sizes(64, 96, 2, 4, 2, 280), attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
        torch.float16,
    ),
    Checkpoint(
        "mistral", "head_dim 24 is not hidden/heads (16), no window, untied, f16; takes tokenizers/mistral",
        MistralConfig(**sizes(64, 144, 2, 4, 2, 608), head_dim=24, sliding_window=None, tie_word_embeddings=False),
        torch.float16,
    ),
    Checkpoint(
        "mistral_window", "sliding window of 16 tokens (the own one counts), one k/v head per head, untied, f32",
        MistralConfig(**sizes(64, 96, 2, 4, 4, 257), sliding_window=16, tie_word_embeddings=False),
        torch.float32, short_len=20,
    ),
]  # fmt: skip


def weight(name: str, shape: torch.Size, tied: bool, generator: torch.Generator) -> torch.Tensor:
    """Random values fit for the tensor's role."""
    if "norm" in name:
        return 1.0 + normal(shape, 0.25, generator)
    if name.endswith(".bias"):
        return normal(shape, 0.3, generator)
    if "embed_tokens" in name:
        return normal(shape, 3.2 / shape[-1] ** 0.5 if tied else 1.0, generator)
    role = name.split(".")[-2]
    return normal(shape, GAINS[role] / shape[-1] ** 0.5, generator)


def fill(model: PreTrainedModel, name: str) -> None:
    """Overwrites every parameter, in the order of the names."""
    generator = seeded("checkpoint", name)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            parameter.copy_(weight(key, parameter.shape, model.config.tie_word_embeddings, generator))


def make_checkpoint(spec: Checkpoint, folder: Path) -> None:
    """Writes config.json, generation_config.json and the weights."""
    model = AutoModelForCausalLM.from_config(spec.config, dtype=torch.float32)
    fill(model, spec.name)
    model.to(spec.dtype).save_pretrained(folder, max_shard_size=spec.max_shard_size)
    if spec.edit_config:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        spec.edit_config(config)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_checkpoint(folder: Path) -> PreTrainedModel:
    """The model as the references see it: f32, eager attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()
