"""What process-lora must write, computed on its own: numpy only, from the two PEFT files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file


def to_bf16(values: np.ndarray) -> np.ndarray:
    """f32 rounded to the nearest bf16 (ties to even), kept in f32."""
    bits = values.astype(np.float32).view(np.uint32)
    bits = bits + 0x7FFF + ((bits >> 16) & 1)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def to_f16(values: np.ndarray) -> np.ndarray:
    """f32 rounded to the nearest f16, kept in f32."""
    return values.astype(np.float16).astype(np.float32)


ROUND = {torch.float32: lambda values: values, torch.bfloat16: to_bf16, torch.float16: to_f16}


def from_pattern(pattern: dict[str, Any], module: str, default: float) -> float:
    """The value of the first key that matches the module's path from a dot (or its start) to its end."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def scale_of(config: dict[str, Any], module: str) -> float:
    """lora_alpha / r, or / sqrt(r), with the module's own alpha and rank."""
    rank = from_pattern(config["rank_pattern"], module, config["r"])
    alpha = from_pattern(config["alpha_pattern"], module, config["lora_alpha"])
    return alpha / math.sqrt(rank) if config["use_rslora"] else alpha / rank


def scaled(tensor: torch.Tensor, scale: float) -> np.ndarray:
    """tensor * scale in the tensor's own type, widened to f32."""
    product = ROUND[tensor.dtype](tensor.float().numpy() * np.float32(scale))
    assert np.array_equal(product, (tensor * scale).float().numpy()), "torch rounds differently"
    return product


def scaled_once(tensor: torch.Tensor, scale: float) -> np.ndarray:
    """tensor * scale in f32."""
    return tensor.float().numpy() * np.float32(scale)


def processed_adapter(folder: Path, product: Callable[[torch.Tensor, float], np.ndarray] = scaled) -> dict[str, np.ndarray]:
    """Name -> f16 tensor: lora_A [k, r], lora_B [r, n] times the scale. With `scaled` as the workflow's own tool computes."""
    config = json.loads((folder / "adapter_config.json").read_text())
    result = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        name = key.removeprefix("base_model.model.")
        name = name if name.startswith("model.") else f"model.{name}"
        module, part = name.rsplit(".lora_", 1)
        values = product(tensor, scale_of(config, module)) if part == "B.weight" else tensor.float().numpy()
        result[name] = np.ascontiguousarray(values.T.astype(np.float16))
    return result
