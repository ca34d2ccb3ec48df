"""Rotary frequencies as transformers computes them, for each way that stretches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import LlamaConfig, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .checkpoints import sizes
from .common import write_json


def llama(**more: Any) -> LlamaConfig:
    return LlamaConfig(**sizes(64, 96, 1, 4, 2, 96) | {"max_position_embeddings": 4096, "rope_theta": 1e6} | more)


def qwen3(**more: Any) -> Qwen3Config:
    return Qwen3Config(**sizes(64, 96, 1, 4, 2, 96) | {"max_position_embeddings": 40960, "head_dim": 128} | more)


YARN = {"rope_type": "yarn", "factor": 4.0}
KEYS = [*sizes(64, 96, 1, 4, 2, 96), "head_dim", "rope_theta", "rope_scaling"]
# The configuration, and the positions that an engine is made for.
CASES = {
    # As the model cards of Qwen2.5 and Qwen3 have it.
    "yarn": (qwen3(rope_theta=1e6, rope_scaling=YARN | {"original_max_position_embeddings": 32768}), 131072),
    "yarn without the original": (llama(head_dim=64, rope_scaling=YARN), 4096),
    "yarn with all": (
        llama(head_dim=64, rope_scaling=YARN | {
            "factor": 40, "beta_fast": 24, "beta_slow": 2, "mscale": 0.9, "mscale_all_dim": 0.5, "truncate": False,
            "original_max_position_embeddings": 2048,
        }), 4096,
    ),
    "yarn with a factor": (llama(head_dim=32, rope_scaling=YARN | {"attention_factor": 1.25}), 4096),
    "yarn without a ramp": (llama(head_dim=8, rope_scaling=YARN | {"original_max_position_embeddings": 4}), 4096),
    "dynamic, short": (llama(head_dim=64, rope_scaling={"rope_type": "dynamic", "factor": 2.0}), 4096),
    "dynamic, long": (llama(head_dim=64, rope_scaling={"rope_type": "dynamic", "factor": 2.0}), 10000),
    "llama3": (
        llama(head_dim=64, rope_scaling={
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        }), 4096,
    ),
    "linear": (llama(head_dim=64, rope_scaling={"rope_type": "linear", "factor": 4.0}), 4096),
}  # fmt: skip


def make_ropes(root: Path) -> None:
    """ropes.json: config.json, the positions of an engine, frequencies and what multiplies cosines and sines."""
    found = {}
    for name, (config, capacity) in CASES.items():
        init = ROPE_INIT_FUNCTIONS[config.rope_scaling["rope_type"]]
        frequencies, factor = init(config, "cpu", seq_len=capacity)
        known = {key: value for key, value in config.to_dict().items() if key in KEYS}
        known["architectures"] = [type(config).__name__.replace("Config", "ForCausalLM")]
        found[name] = {
            "config": known, "capacity": capacity, "frequencies": frequencies.tolist(), "attention_factor": factor,
        }  # fmt: skip
    write_json(root / "ropes.json", found)
