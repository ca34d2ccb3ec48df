"""Runs exported graphs in onnxruntime, and checks them with onnx.checker. Used by scripts/check_onnx.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file


def rope_table(config: dict, positions: int) -> np.ndarray:
    """rope_rotary_cos_sin, f32 [1, positions, rotary_dim]: cosines, then sines."""
    dim, theta = int(config["head_dim"] * config["partial_rotary_factor"]), config["rope_theta"]
    inverse, factor = 1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim), 1.0
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        inverse = inverse / scaling["factor"]
    elif kind == "llama3":
        inverse = llama3(inverse, scaling)
    elif kind == "longrope":
        original = config["original_max_position_embeddings"]
        inverse = inverse / np.array(scaling["short_factor" if positions <= original else "long_factor"])
        longer = config["max_position_embeddings"] / original
        factor = np.sqrt(1 + np.log(longer) / np.log(original))
    else:
        assert kind == "default", kind
    angles = np.arange(positions, dtype=np.float32)[:, None] * inverse.astype(np.float32)
    return (np.concatenate([np.cos(angles), np.sin(angles)], axis=1)[None] * factor).astype(np.float32)


def as_the_graph_names(adapter: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An adapter's tensors; those of backbones have the names of plain models in the graph."""
    return {name.replace("model.language_model.", "model."): tensor for name, tensor in adapter.items()}


def llama3(inverse: np.ndarray, scaling: dict) -> np.ndarray:
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * np.pi / inverse
    ratio = scaling["original_max_position_embeddings"] / wavelength
    smooth = np.clip((ratio - low) / (high - low), 0, 1)
    return (1 - smooth) * inverse / factor + smooth * inverse


class Session:
    """A model of an ONNX directory with the inputs that stay the same."""

    def __init__(self, directory: Path, file: str = "model.onnx", is_exact: bool = False) -> None:
        path = directory / file
        onnx.checker.check_model(str(path), full_check=True)
        self.config = json.loads((directory / "config.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        if is_exact:
            # Else a product with a quantized weight may be computed with rounded activations.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.embedding = load_file(directory / "embedding.safetensors")["embedding"]
        self.dtype = np.float16 if "16" in self.inputs["inputs_embeds"].type else np.float32
        self.ropes = {"rope_rotary_cos_sin": rope_table(self.config, 512)}
        if "local_rope_rotary_cos_sin" in self.inputs:
            # Of layers with a window, whose frequencies are not stretched.
            local = self.config | {"rope_theta": self.config["local_rope_theta"], "rope_scaling": None}
            self.ropes["local_rope_rotary_cos_sin"] = rope_table(local, 512)

    def empty_cache(self, batch: int) -> list[np.ndarray]:
        shape = (batch, 2, self.config["num_key_value_heads"], 0, self.config["head_dim"])
        return [np.zeros(shape, self.dtype) for _ in range(self.config["num_hidden_layers"])]

    def lora_inputs(self, adapter: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The adapter's tensors; zeros of rank 1 for projections that it leaves alone."""
        found, adapter = {}, as_the_graph_names(adapter)
        for name in self.inputs:
            if ".lora_" in name:
                shape = [size if isinstance(size, int) else 1 for size in self.inputs[name].shape]
                found[name] = adapter[name] if name in adapter else np.zeros(shape, np.float16)
        unknown = set(adapter) - set(found)
        assert not unknown, f"the graph takes no {sorted(unknown)}"
        return found

    def step(
        self, tokens: np.ndarray, cache: list[np.ndarray], starts: list[int], rows: np.ndarray, adapter: dict | None = None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """tokens [batch, seq], starts [batch], rows [batch, n]: logits [batch, n, vocab] and the new cache."""
        feed = {
            "inputs_embeds": self.embedding[tokens].astype(self.dtype),
            "last_token_ids": np.asarray(rows, np.int64),
            "kvcache_start_index": np.asarray(starts, np.int32),
        }
        feed |= self.ropes
        feed |= {f"past_key_values_{i}": past for i, past in enumerate(cache)}
        feed |= self.lora_inputs(adapter or {})
        logits, *cache = self.session.run(None, feed)
        return logits, cache
