"""Runs graphs of the workflow's exporters: its plugins in numpy, the rest by onnx's own reference evaluator.

Everything is computed in f32, and what enters a layer is not rounded, so that weights and an adapter's effect are
compared and not the rounding of f16 and of quantized inputs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from safetensors.numpy import load_file

from .onnx import rope_table


def rotated(x: np.ndarray, rope: np.ndarray) -> np.ndarray:
    """x [seq, heads, head_dim], pairs (i, i + rotary_dim / 2); what lies behind them stays."""
    cos, sin = (part[:, None] for part in np.split(rope[: len(x)], 2, axis=1))
    low, high, rest = np.split(x, [cos.shape[2], 2 * cos.shape[2]], axis=2)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin, rest], axis=2)


def normed(x: np.ndarray, gamma: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * gamma


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal, [seq, heads, head_dim] each; a key's head serves several of the queries'."""
    k, v = (np.repeat(part, q.shape[1] // k.shape[1], axis=1) for part in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[2])
    scores = np.where(np.tri(len(q), dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(axis=2, keepdims=True), v)


def attention_of(domain: str) -> type[OpRun]:
    class AttentionPlugin(OpRun):
        op_domain = domain

        def _run(self, qkv, past, lengths, rope, start, *rest, num_q_heads=None, num_kv_heads=None, head_size=None,
                 enable_qk_norm=None, rms_norm_eps=None, **ignored):  # fmt: skip
            sizes = np.cumsum([num_q_heads * head_size, num_kv_heads * head_size])
            q, k, v = (part.reshape(part.shape[0], -1, head_size) for part in np.split(qkv[0], sizes, axis=1))
            if enable_qk_norm:
                q, k = (normed(x, gamma, rms_norm_eps) for x, gamma in zip((q, k), rest[-2:]))
            return attend(rotated(q, rope[0]), rotated(k, rope[0]), v)[None].astype(np.float32), past

    return AttentionPlugin


class Int4GroupwiseGemmPlugin(OpRun):
    """Nibbles of 16-bit words, by the documented formula."""

    op_domain = ""

    def _run(self, x, packed, scales, gemm_n=None, gemm_k=None, group_size=None):
        n, k = gemm_n, gemm_k
        words = np.frombuffer(packed.tobytes(), "<u2").reshape(n // 4, k)
        codes = np.zeros((n, k), np.float32)
        for column in range(k):
            for t in range(4):
                f = (4 * (column % 64) + t) % 64
                p = f % 32
                target = column // 64 * 64 + 32 * (f // 32) + 8 * (p % 4) + 2 * (p // 8) + (p % 8) // 4
                rows = 4 * np.arange(n // 4) + column % 64 // 16
                codes[rows, target] = ((words[:, column] >> (4 * t)) & 15).astype(np.float32) - 8
        return (x @ (codes.T * np.repeat(scales, group_size, axis=0)).astype(np.float32),)


class Int4GroupwiseGemmPluginV2(OpRun):
    """Nibbles of 32-bit words in tiles, by the documented formula."""

    op_domain = "trt_edgellm"

    def _run(self, x, packed, scales, gemm_n=None, gemm_k=None, group_size=None):
        n, k = gemm_n, gemm_k
        words = np.frombuffer(packed.tobytes(), "<u4").reshape(-1, 128)
        codes = np.zeros((-(-n // 128) * 128, k), np.float32)
        places = [(0, 0), (0, 8), (32, 0), (32, 8), (0, 1), (0, 9), (32, 1), (32, 9)]
        for row, values in enumerate(words):
            tile, within = divmod(row, 8)
            for t in range(128):
                n0 = 128 * (tile // (k // 64)) + t // 4 + 64 * (within % 2)
                k0 = 64 * (tile % (k // 64)) + 16 * (within // 2) + 2 * (t % 4)
                for i, (dn, dk) in enumerate(places):
                    codes[n0 + dn, k0 + dk] = float((int(values[t]) >> (4 * i)) & 15) - 8
        return (x @ (codes[:n].T * np.repeat(scales, group_size, axis=0)).astype(np.float32),)


PLUGINS = [attention_of("trt"), attention_of("trt_edgellm"), Int4GroupwiseGemmPlugin, Int4GroupwiseGemmPluginV2]


def leave_inputs_exact(graph: onnx.GraphProto) -> None:
    """What enters a layer goes past its rounding."""
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        rounding = producers.get(node.input[0]) if node.op_type.endswith("DequantizeLinear") else None
        if rounding is None or "Quantize" not in rounding.op_type or rounding.input[0] in constants:
            continue
        exact = rounding.input[0]
        del node.input[:], node.attribute[:]
        node.input.append(exact)
        node.op_type, node.domain = "Identity", ""
    # A rounding that nobody reads any more goes too, and the scales that it read.
    unread = list(graph.node)
    while unread:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        unread = [node for node in graph.node if not read & set(node.output)]
        for node in unread:
            graph.node.remove(node)


def widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


class PluginSession:
    """A graph of the workflow's, every f16 in it made f32."""

    def __init__(self, directory: Path, file: str) -> None:
        model = onnx.load(directory / file)
        tensors = [widened(tensor) for tensor in model.graph.initializer]
        del model.graph.initializer[:]
        model.graph.initializer.extend(tensors)
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                    attribute.i = TensorProto.FLOAT
                if node.op_type == "Constant" and attribute.name == "value":
                    attribute.t.CopyFrom(widened(attribute.t))
        leave_inputs_exact(model.graph)
        for node in model.graph.node:
            # Of a whole weight it computes what the standard's does.
            node.domain = "" if node.op_type == "DequantizeLinear" else node.domain
        self.inputs = [value.name for value in model.graph.input]
        self.evaluator = ReferenceEvaluator(model, new_ops=PLUGINS)
        self.config = json.loads((directory / "config.json").read_text())
        self.embedding = load_file(directory / "embedding.safetensors")["embedding"].astype(np.float32)

    def logits(self, tokens: np.ndarray, rows: np.ndarray, adapter: dict[str, np.ndarray]) -> np.ndarray:
        feed: dict[str, Any] = {name: np.zeros(0, np.float32) for name in self.inputs if ".lora_" not in name}
        feed |= {
            "inputs_embeds": self.embedding[tokens][None],
            "rope_rotary_cos_sin": rope_table(self.config, 512),
            "last_token_ids": rows[None].astype(np.int64),
        }
        slots = {name for name in self.inputs if ".lora_" in name}
        unknown = set(adapter) - slots
        assert not unknown, f"the graph takes no {sorted(unknown)}"
        missing = slots - set(adapter)
        assert not missing, f"the adapter has no {sorted(missing)}"
        feed |= {name: adapter[name].astype(np.float32) for name in slots}
        return self.evaluator.run(["logits"], feed)[0][0]
