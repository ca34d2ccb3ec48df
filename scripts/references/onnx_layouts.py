"""ONNX directories in the layouts of the workflow's own exporters, from the reference checkpoints.

The exporters themselves are not at hand: the graphs are built here after the documented facts (names,
order of operators, transposition, plugin nodes, where tensors lie). The int4 packing follows the documented
formulas from word to weight, so that a reader has to go the other way.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from safetensors.numpy import load_file
from transformers import PreTrainedModel

from .checkpoints import load_checkpoint
from .common import write_tensors

F16, F32, I8, I32, I64 = (
    TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64,
)  # fmt: skip
KINDS = {np.dtype(np.float16): F16, np.dtype(np.float32): F32, np.dtype(np.int8): I8, np.dtype(np.int64): I64}


@dataclass
class Layout:
    """One directory to make."""

    name: str
    model: str
    version: str
    # Of quantized ones: a good adapter of the checkpoint, of which the first layer is kept.
    adapter: str | None = None

    @property
    def kind(self) -> str:
        """What the weights are kept as: the last part of the name, or f16."""
        return self.name.split("_")[1] if self.is_quantized else "f16"

    @property
    def is_quantized(self) -> bool:
        return self.adapter is not None

    @property
    def is_older(self) -> bool:
        return self.version == "0.5.0"


LAYOUTS = [
    Layout("older_qwen2", "qwen2", "0.5.0"),
    Layout("older_qwen3", "qwen3", "0.5.0"),
    Layout("newer_qwen2", "qwen2", "0.10.0"),
    Layout("newer_qwen3", "qwen3", "0.10.0"),
    Layout("older_phi3", "phi3_short", "0.5.0"),
    Layout("older_int4", "llama3", "0.5.0", adapter="all_r16"),
    Layout("newer_int4", "qwen3", "0.10.0", adapter="all_r8"),
    Layout("older_fp8", "qwen2", "0.5.0", adapter="all_r8"),
    Layout("older_int8", "qwen2", "0.5.0", adapter="all_r8"),
    Layout("newer_nvfp4", "qwen3", "0.10.0", adapter="all_r8"),
]


@dataclass
class Graph:
    """Nodes and tensors as they are collected."""

    layout: Layout
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    # Types that numpy has no name for: bytes, type and shape.
    odd: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    count: int = 0

    def add(self, op: str, inputs: list[str], path: str = "", outputs: list[str] | None = None, domain: str = "", **attributes: Any) -> str:
        """A node; its name is its path in the older layout and a number in the newer one."""
        self.count += 1
        name = f"{path}/{op}" if self.layout.is_older else f"node_{op}_{self.count}"
        if any(node.name == name for node in self.nodes):
            name = f"{name}_{self.count}"
        outputs = outputs or [f"{name}_output_0" if self.layout.is_older else f"val_{self.count}"]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def tensor(self, name: str, value: np.ndarray) -> str:
        self.tensors[name] = value
        return name

    def packed(self, name: str, data: np.ndarray, kind: int, shape: tuple[int, ...]) -> str:
        """A tensor of a type of 8 or 4 bits, as bytes."""
        self.odd[name] = kind, shape
        return self.tensor(name, data)

    def constant(self, value: np.ndarray, path: str = "") -> str:
        """A Constant node in the older layout, a tensor beside the weights in the newer one."""
        self.count += 1
        if not self.layout.is_older:
            return self.tensor(f"val_{self.count}", value)
        name = f"{path}/Constant_{self.count}"
        kind = KINDS[value.dtype]
        data = helper.make_tensor(name, kind, value.shape, value.tobytes(), raw=True)
        self.nodes.append(helper.make_node("Constant", [], [f"{name}_output_0"], name=name, value=data))
        return f"{name}_output_0"

    def cast(self, x: str, to: int, path: str) -> str:
        return self.add("Cast", [x], path, to=to)


def half(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float16).numpy()


def rms_norm(graph: Graph, x: str, weight: str, eps: float, path: str) -> str:
    """Decomposed, in f32."""
    wide = graph.cast(x, F32, path)
    square = graph.add("Pow", [wide, graph.constant(np.float32(2.0)[...], path)], path)
    mean = graph.add("ReduceMean", [square, graph.constant(np.array([-1]), path)], path, keepdims=1)
    root = graph.add("Sqrt", [graph.add("Add", [mean, graph.constant(np.float32(eps)[...], path)], path)], path)
    if graph.layout.is_older:
        inverse = graph.add("Div", [graph.constant(np.float32(1.0)[...], path), root], path)
    else:
        inverse = graph.add("Reciprocal", [root], path)
    normed = graph.cast(graph.add("Mul", [wide, inverse], path), F16, path)
    return graph.add("Mul", [weight, normed], path)


class Exporter:
    """One decoder in one layout."""

    def __init__(self, layout: Layout, model: PreTrainedModel) -> None:
        self.layout, self.model, self.config = layout, model, model.config
        self.graph = Graph(layout)
        self.state = model.state_dict()
        self.head_dim = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads

    def name(self, checkpoint_name: str) -> str:
        return checkpoint_name if self.layout.is_older else f"_model.{checkpoint_name}"

    def named(self, checkpoint_name: str) -> str:
        """A tensor that keeps its name."""
        return self.graph.tensor(self.name(checkpoint_name), half(self.state[checkpoint_name]))

    def product(self, x: str, weight: torch.Tensor, path: str) -> str:
        """A MatMul with an anonymous transposed weight."""
        self.graph.count += 1
        name = f"onnx::MatMul_{self.graph.count}" if self.layout.is_older else f"val_{self.graph.count}"
        self.graph.tensor(name, np.ascontiguousarray(half(weight).T))
        return self.graph.add("MatMul", [x, name], path)

    def linear(self, x: str, module: str) -> str:
        path = "/" + module.replace(".", "/").replace("layers/", "layers.")
        bias = f"{module}.bias"
        if self.layout.is_quantized:
            result = getattr(self, self.layout.kind)(x, module, path)
        else:
            result = self.product(x, self.state[f"{module}.weight"], path)
        return self.graph.add("Add", [self.named(bias), result], path) if bias in self.state else result

    def int4(self, x: str, module: str, path: str) -> str:
        codes, scales, pre_scale = quantize(self.state[f"{module}.weight"], group_of(self.state[f"{module}.weight"]))
        n, k = codes.shape
        attributes = {"gemm_n": n, "gemm_k": k, "group_size": k // scales.shape[0]}
        if pre_scale is not None:
            x = self.graph.add("Mul", [x, self.graph.tensor(self.name(f"{module}.input_quantizer._pre_quant_scale"), pre_scale)], path)
        if self.layout.is_older:
            packed = self.graph.tensor(f"{path}/MatMul/processed_qweight", pack_older(codes))
            scale = self.graph.tensor(f"{path}/MatMul/scales", scales)
            return self.graph.add("Int4GroupwiseGemmPlugin", [x, packed, scale], path, [f"{path}/MatMulPlugin_output_0"], **attributes)
        packed = self.graph.tensor(self.name(f"{module}.weight"), pack_newer(codes))
        scale = self.graph.tensor(self.name(f"{module}.weight_scale"), scales)
        return self.graph.add("Int4GroupwiseGemmPluginV2", [x, packed, scale], path, domain="trt_edgellm", **attributes)

    def fp8(self, x: str, module: str, path: str) -> str:
        """TensorRT's FP8 operators on what enters, and on the weight as it lies, [n, k]."""
        graph = self.graph
        codes, scale = quantize_fp8(self.state[f"{module}.weight"])
        input_scale = graph.constant(np.float32(0.03)[...], path)
        wide = graph.cast(x, F32, path)
        rounded = graph.add("TRT_FP8QuantizeLinear", [wide, input_scale], f"{path}/input_quantizer", domain="trt")
        wide = graph.add("TRT_FP8DequantizeLinear", [rounded, input_scale], f"{path}/input_quantizer", domain="trt")
        x = graph.cast(wide, F16, path)
        name = f"{path}/weight_quantizer/fp8_weights"
        packed = graph.packed(name, codes.view(np.uint8), TensorProto.FLOAT8E4M3FN, codes.shape)
        scale = graph.constant(np.float16(scale)[...], path)
        weight = graph.add("DequantizeLinear", [packed, scale], f"{path}/weight_quantizer", domain="trt")
        weight = graph.add("Transpose", [graph.cast(weight, F16, path)], path, perm=[1, 0])
        return graph.add("MatMul", [x, weight], path)

    def int8(self, x: str, module: str, path: str) -> str:
        """SmoothQuant: the weight stands as F32 and is rounded by the graph, one scale per output."""
        graph = self.graph
        smooth, scales, pre_scale = smooth_int8(self.state[f"{module}.weight"])
        x = graph.add("Mul", [x, graph.tensor(f"{module}.input_quantizer._pre_quant_scale", pre_scale)], path)
        wide = graph.cast(x, F32, path)
        input_scale, zero = graph.constant(np.float32(0.05)[...], path), graph.constant(np.int8(0)[...], path)
        rounded = graph.add("QuantizeLinear", [wide, input_scale, zero], f"{path}/input_quantizer")
        wide = graph.add("DequantizeLinear", [rounded, input_scale, zero], f"{path}/input_quantizer")
        weight = graph.tensor(f"{module}.weight", smooth)
        scales, zeros = graph.constant(scales, path), graph.constant(np.zeros(len(smooth), np.int8), path)
        weight = graph.add("QuantizeLinear", [weight, scales, zeros], f"{path}/weight_quantizer", axis=0)
        weight = graph.add("DequantizeLinear", [weight, scales, zeros], f"{path}/weight_quantizer", axis=0)
        product = graph.add("MatMul", [wide, graph.add("Transpose", [weight], path, perm=[1, 0])], path)
        return graph.cast(product, F16, path)

    def nvfp4(self, x: str, module: str, path: str) -> str:
        """Blocks of 16 of E2M1, scales in E4M3, and a scale of the scales; what enters is scaled while it runs."""
        graph = self.graph
        codes, scales, outer = quantize_nvfp4(self.state[f"{module}.weight"])
        outputs = [f"{path}/{part}" for part in ("rounded", "rounded_scale")]
        of_input = graph.constant(np.float32(0.01)[...], path)
        graph.add("TRT_FP4DynamicQuantize", [x, of_input], path, outputs, "trt", axis=-1, block_size=16, scale_type=17)
        of_blocks = graph.add("DequantizeLinear", [outputs[1], of_input], path)
        x = graph.cast(graph.add("DequantizeLinear", [outputs[0], of_blocks], path, axis=-1, block_size=16), F16, path)
        name = self.name(f"{module}.weight")
        low, high = codes[:, 0::2], codes[:, 1::2]
        values = graph.packed(name, low | high << 4, TensorProto.FLOAT4E2M1, codes.shape)
        packed = graph.packed(f"{name}_scale", scales.view(np.uint8), TensorProto.FLOAT8E4M3FN, scales.shape)
        of_blocks = graph.add("DequantizeLinear", [packed, graph.constant(outer[...], path)], path)
        weight = graph.add("DequantizeLinear", [values, of_blocks], path, axis=-1, block_size=16)
        weight = graph.add("Transpose", [graph.cast(weight, F16, path)], path, perm=[1, 0])
        return graph.add("MatMul", [x, weight], path)

    def attention(self, i: int, x: str) -> str:
        graph, config = self.graph, self.config
        module, path = f"model.layers.{i}.self_attn", f"/model/layers.{i}/self_attn"
        has_norm = f"{module}.q_norm.weight" in self.state
        is_fused = not self.layout.is_older and not self.layout.is_quantized
        if f"{module}.qkv_proj.weight" in self.state:
            qkv = graph.add("Concat", self.queries_keys_values(x, module, path), path, axis=-1)
        elif is_fused:
            qkv = self.fused(x, module, path)
        else:
            parts = [self.linear(x, f"{module}.{part}_proj") for part in "qkv"]
            if self.layout.is_older and has_norm:
                parts[:2] = [self.head_norm(part, f"{module}.{name}_norm") for part, name in zip(parts, "qk")]
            qkv = graph.add("Concat", parts, path, axis=-1)
        heads = {"num_q_heads": config.num_attention_heads, "num_kv_heads": config.num_key_value_heads, "head_size": self.head_dim}
        inputs = [f"past_key_values_{i}", "context_lengths", "rope_rotary_cos_sin", "kvcache_start_index"]
        outputs = [f"{path}/attended", f"present_key_values_{i}"]
        if self.layout.is_older:
            qkv = graph.cast(qkv, F16, path)
            graph.add("AttentionPlugin", [qkv, *inputs], path, outputs, "trt", enable_tree_attention=0, enable_fp8_kv_cache=0, **heads)
        else:
            attributes = {
                "enable_tree_attention": 0, "enable_fp8_kv_cache": 0, "sliding_window_size": -1, "_outputs": 2,
                "attention_scale": self.head_dim**-0.5, "rms_norm_eps": config.rms_norm_eps, "enable_qk_norm": int(has_norm),
            }  # fmt: skip
            inputs.append("kv_page_table")
            if has_norm:
                inputs += [self.named(f"{module}.{name}_norm.weight") for name in "qk"]
            graph.add("AttentionPlugin", [qkv, *inputs], path, outputs, "trt_edgellm", **heads, **attributes)
        return self.linear(self.joined_heads(outputs[0], path), f"{module}.o_proj")

    def slice(self, x: str, start: str, end: str, path: str) -> str:
        """Along the last axis."""
        graph = self.graph
        return graph.add("Slice", [x, start, end, graph.constant(np.array([2]), path), graph.constant(np.array([1]), path)], path)

    def queries_keys_values(self, x: str, module: str, path: str) -> list[str]:
        """One product and three slices with constant bounds, the last one to the end of the axis."""
        graph, config = self.graph, self.config
        product = self.linear(x, f"{module}.qkv_proj")
        q = config.num_attention_heads * self.head_dim
        k = q + config.num_key_value_heads * self.head_dim
        bounds = ((0, q), (q, k), (k, np.iinfo(np.int64).max))
        return [self.slice(product, *(graph.constant(np.array([bound]), path) for bound in pair), path) for pair in bounds]

    def gate_and_up(self, x: str, module: str, path: str) -> list[str]:
        """One product and two slices, whose bounds chunk computes from the length of the axis."""
        graph = self.graph
        product = self.linear(x, f"{module}.gate_up_proj")
        length = graph.add("Gather", [graph.add("Shape", [product], path), graph.constant(np.array([2]), path)], path, axis=0)
        shifted = graph.add("Add", [length, graph.constant(np.array([1]), path)], path)
        half_length = graph.add("Div", [shifted, graph.constant(np.array([2]), path)], path)
        ends = [graph.add("Mul", [half_length, graph.constant(np.array([i]), path)], path) for i in (1, 2)]
        zero = graph.constant(np.array([0]), path)
        return [self.slice(product, start, end, path) for start, end in ((zero, ends[0]), (ends[0], ends[1]))]

    def fused(self, x: str, module: str, path: str) -> str:
        weight = torch.cat([self.state[f"{module}.{part}_proj.weight"] for part in "qkv"])
        result = self.product(x, weight, path)
        if f"{module}.q_proj.bias" not in self.state:
            return result
        bias = torch.cat([self.state[f"{module}.{part}_proj.bias"] for part in "qkv"])
        return self.graph.add("Add", [result, self.graph.tensor(self.name(f"{module}.qkv_proj_fused.bias"), half(bias))], path)

    def head_norm(self, x: str, module: str) -> str:
        path = "/" + module.replace(".", "/").replace("layers/", "layers.")
        apart = self.graph.add("Reshape", [x, self.shape_of(x, [-1, self.head_dim], path)], path)
        normed = rms_norm(self.graph, apart, self.named(f"{module}.weight"), self.config.rms_norm_eps, path)
        return self.graph.add("Reshape", [normed, self.shape_of(x, [-1], path)], path)

    def joined_heads(self, x: str, path: str) -> str:
        joined = self.graph.add("Reshape", [x, self.shape_of(x, [-1], path)], path)
        return self.graph.cast(joined, F16, path) if self.layout.is_older else joined

    def shape_of(self, x: str, rest: list[int], path: str) -> str:
        """[batch, seq, *rest], computed from a value as exporters do."""
        graph, sizes = self.graph, []
        for axis in (0, 1):
            size = graph.add("Gather", [graph.add("Shape", [x], path), graph.constant(np.array(axis), path)], path, axis=0)
            sizes.append(graph.add("Unsqueeze", [size, graph.constant(np.array([0]), path)], path))
        return graph.add("Concat", [*sizes, graph.constant(np.array(rest), path)], path, axis=0)

    def layer(self, i: int, x: str) -> str:
        graph, module, path = self.graph, f"model.layers.{i}", f"/model/layers.{i}"
        eps = self.config.rms_norm_eps
        normed = rms_norm(graph, x, self.named(f"{module}.input_layernorm.weight"), eps, f"{path}/input_layernorm")
        x = graph.add("Add", [x, self.attention(i, normed)], path)
        post = "post_attention_layernorm"
        normed = rms_norm(graph, x, self.named(f"{module}.{post}.weight"), eps, f"{path}/{post}")
        if f"{module}.mlp.gate_up_proj.weight" in self.state:
            gate, up = self.gate_and_up(normed, f"{module}.mlp", f"{path}/mlp")
        else:
            gate, up = (self.linear(normed, f"{module}.mlp.{part}_proj") for part in ("gate", "up"))
        silu = graph.add("Mul", [gate, graph.add("Sigmoid", [gate], f"{path}/mlp/act_fn")], f"{path}/mlp/act_fn")
        down = self.linear(graph.add("Mul", [silu, up], f"{path}/mlp"), f"{module}.mlp.down_proj")
        return graph.add("Add", [x, down], path)

    def values(self) -> None:
        graph, config = self.graph, self.config
        info = helper.make_tensor_value_info
        kv = config.num_key_value_heads, self.head_dim
        paged = [2, "num_pages", 128, *kv]
        cache = lambda length: ["batch_size", 2, kv[0], length, kv[1]] if self.layout.is_older else paged
        graph.inputs = [info("inputs_embeds", F16, ["batch_size", "seq_len", config.hidden_size])]
        graph.inputs += [info(f"past_key_values_{i}", F16, cache("past_len")) for i in range(config.num_hidden_layers)]
        graph.inputs += [
            info("rope_rotary_cos_sin", F32, ["rope_batch_size", "max_position_embeddings", int(self.head_dim * partial(config))]),
            info("context_lengths", I32, ["batch_size"]),
            info("last_token_ids", I64, ["batch_size", 1]),
            info("kvcache_start_index", I32, ["kv_cache_start_batch_size"]),
        ]
        if not self.layout.is_older:
            graph.inputs.append(info("kv_page_table", I32, ["page_batch", 2, "max_pages_per_seq"]))
        graph.outputs = [info("logits", F32, ["batch_size", 1, config.vocab_size])]
        graph.outputs += [
            info(f"present_key_values_{i}", F16, cache("present_kv_cache_len")) for i in range(config.num_hidden_layers)
        ]

    def build(self) -> onnx.GraphProto:
        graph, config = self.graph, self.config
        self.values()
        x = "inputs_embeds"
        for i in range(config.num_hidden_layers):
            x = self.layer(i, x)
        x = rms_norm(graph, x, self.named("model.norm.weight"), config.rms_norm_eps, "/model/norm")
        rows = graph.add("Unsqueeze", ["last_token_ids", graph.constant(np.array([-1]))])
        x = graph.add("GatherND", [x, rows], batch_dims=1)
        head = self.product(x, self.state["lm_head.weight"], "/lm_head")
        graph.add("Cast", [head], outputs=["logits"], to=F32)
        if self.layout.name == "older_qwen2":
            self.check_counts()
        return helper.make_graph(graph.nodes, "main_graph", graph.inputs, graph.outputs)


    def check_counts(self) -> None:
        """Of each operator as many as the exporter writes for this family."""
        layers = self.config.num_hidden_layers
        norms = 2 * layers + 1
        wanted = {
            "Cast": 2 * norms + 2 * layers + 1, "Constant": 4 * norms + 5 * layers + 1, "Pow": norms, "ReduceMean": norms,
            "Add": norms + 5 * layers, "Sqrt": norms, "Div": norms, "Mul": 2 * norms + 2 * layers, "Shape": 2 * layers,
            "Gather": 2 * layers, "MatMul": 7 * layers + 1, "Concat": 2 * layers, "AttentionPlugin": layers,
            "Unsqueeze": 2 * layers + 1, "Reshape": layers, "Sigmoid": layers, "GatherND": 1,
        }  # fmt: skip
        found = Counter(node.op_type for node in self.graph.nodes)
        assert found == wanted, (found, wanted)


def group_of(weight: torch.Tensor) -> int:
    return min(128, weight.shape[1])


def quantize(weight: torch.Tensor, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes [n, k] in -8..7, scales f16 [k / group, n], and scales of the inputs f16 [k] as AWQ has them."""
    weight = weight.detach().float().numpy()
    n, k = weight.shape
    pre_scale = (0.75 + np.arange(k) % 5 / 8).astype(np.float16)
    smooth = (weight / pre_scale.astype(np.float32)).reshape(n, k // group, group)
    scales = (np.abs(smooth).max(axis=2) / 7).astype(np.float16)
    codes = np.clip(np.rint(smooth / scales.astype(np.float32)[..., None]), -8, 7).astype(np.int8)
    return codes.reshape(n, k), np.ascontiguousarray(scales.T), pre_scale


def as_e4m3(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def of_e4m3(codes: np.ndarray) -> np.ndarray:
    return torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()


def quantize_fp8(weight: torch.Tensor) -> tuple[np.ndarray, np.float16]:
    """Bytes of E4M3 [n, k] and one scale."""
    weight = weight.detach().float().numpy()
    scale = np.float16(np.abs(weight).max() / 448)
    return as_e4m3(np.clip(weight / np.float32(scale), -448, 448)), scale


def smooth_int8(weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [n, k] divided by the scales of the inputs, scales f32 [n], and scales of the inputs f16 [k]."""
    weight = weight.detach().float().numpy()
    pre_scale = (0.75 + np.arange(weight.shape[1]) % 7 / 8).astype(np.float16)
    smooth = weight / pre_scale.astype(np.float32)
    return smooth, np.abs(smooth).max(axis=1) / np.float32(127), pre_scale


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def quantize_nvfp4(weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Codes [n, k] of four bits, bytes of E4M3 [n, k / 16], and the scale of the scales."""
    weight = weight.detach().float().numpy()
    blocks = weight.reshape(len(weight), -1, 16)
    outer = np.float32(np.abs(weight).max() / (6 * 448))
    scales = as_e4m3(np.abs(blocks).max(axis=2) / 6 / outer)
    wide = np.maximum(of_e4m3(scales) * outer, 1e-12)[..., None]
    nearest = np.abs(np.abs(blocks / wide)[..., None] - E2M1).argmin(axis=-1)
    codes = (nearest + 8 * (blocks < 0)).astype(np.uint8).reshape(weight.shape)
    return codes, scales, outer


def dequantized(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """What the graph computes with, as a plain weight."""
    if kind == "fp8":
        codes, scale = quantize_fp8(weight)
        return torch.from_numpy(of_e4m3(codes) * np.float32(scale))
    if kind == "int8":
        smooth, scales, pre_scale = smooth_int8(weight)
        return torch.from_numpy(np.rint(smooth / scales[:, None]) * scales[:, None] * pre_scale.astype(np.float32))
    if kind == "nvfp4":
        codes, scales, outer = quantize_nvfp4(weight)
        values = np.where(codes & 8, -E2M1[codes & 7], E2M1[codes & 7])
        return torch.from_numpy(values * np.repeat(of_e4m3(scales) * outer, 16, axis=1))
    codes, scales, pre_scale = quantize(weight, group_of(weight))
    wide = np.repeat(scales.astype(np.float32).T, codes.shape[1] // scales.shape[0], axis=1)
    return torch.from_numpy(codes * wide * pre_scale.astype(np.float32))


def pack_older(codes: np.ndarray) -> np.ndarray:
    """int8 [n / 2, k]; word [r, 64 kb + j] of the same bytes as 16-bit words [n / 4, k] holds four nibbles."""
    n, k = codes.shape
    r, kb, j, t = np.meshgrid(np.arange(n // 4), np.arange(k // 64), np.arange(64), np.arange(4), indexing="ij")
    f = (4 * j + t) % 64
    p = f % 32
    column = 64 * kb + 32 * (f // 32) + 8 * (p % 4) + 2 * (p // 8) + (p % 8) // 4
    nibbles = (codes[4 * r + j // 16, column] + 8).astype(np.uint16)
    words = (nibbles << (4 * t).astype(np.uint16)).sum(axis=3).astype("<u2").reshape(n // 4, k)
    return np.frombuffer(words.tobytes(), np.int8).reshape(n // 2, k)


def pack_newer(codes: np.ndarray) -> np.ndarray:
    """int8 [rows, 512] of 32-bit words [rows, 128]; what is beyond n is filled with nibbles of 8."""
    n, k = codes.shape
    filled = np.zeros((-(-n // 128) * 128, k), np.int8)
    filled[:n] = codes
    nb, kt, kbl, p, t = np.meshgrid(
        np.arange(len(filled) // 128), np.arange(k // 64), np.arange(4), np.arange(2), np.arange(128), indexing="ij"
    )
    n0, k0 = 128 * nb + t // 4 + 64 * p, 64 * kt + 16 * kbl + 2 * (t % 4)
    places = [(0, 0), (0, 8), (32, 0), (32, 8), (0, 1), (0, 9), (32, 1), (32, 9)]
    words = sum((filled[n0 + dn, k0 + dk] + 8).astype(np.uint32) << (4 * i) for i, (dn, dk) in enumerate(places))
    return np.frombuffer(words.astype("<u4").tobytes(), np.int8).reshape(-1, 512)


def store_tensors(graph: onnx.GraphProto, collected: Graph, path: Path, least: int) -> None:
    """One file behind another without gaps; those below `least` bytes stand in the model."""
    with path.open("wb") as out:
        for name, value in collected.tensors.items():
            kind, shape = collected.odd.get(name) or (KINDS[value.dtype], value.shape)
            tensor = graph.initializer.add(name=name, data_type=kind, dims=shape)
            data = np.ascontiguousarray(value).tobytes()
            if len(data) < least:
                tensor.raw_data = data
                continue
            tensor.data_location = TensorProto.EXTERNAL
            for key, text in (("location", path.name), ("offset", str(out.tell())), ("length", str(len(data)))):
                tensor.external_data.add(key=key, value=text)
            out.write(data)


def partial(config: Any) -> float:
    return getattr(config, "partial_rotary_factor", 1.0)


def config_json(layout: Layout, config: Any, head_dim: int) -> dict[str, Any]:
    keys = [
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rope_theta", "rope_scaling",
    ]  # fmt: skip
    values = {key: getattr(config, key) for key in keys}
    if (config.rope_scaling or {}).get("type") == "longrope":
        values["original_max_position_embeddings"] = config.original_max_position_embeddings
    values |= {"head_dim": head_dim, "partial_rotary_factor": partial(config), "model": config.model_type, "edgellm_version": layout.version}
    if layout.is_older:
        return values | {"model_type": "llm"}
    eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return values | {
        "engine_role": "llm", "spec_decode_type": "none", "num_deepstack_features": 0, "rms_norm_eps": config.rms_norm_eps,
        "attention_scaling": 1.0, "kv_cache_dtype": "fp16", "eos_token_id": eos,
    }  # fmt: skip


@torch.no_grad()
def load(layout: Layout, models: Path) -> PreTrainedModel:
    """The checkpoint; of a quantized layout its first layer, with tables that rows of int8 hold exactly."""
    model = load_checkpoint(models / layout.model)
    if layout.is_quantized:
        model.model.layers = model.model.layers[:1]
        model.config.num_hidden_layers = 1
        for table in {model.model.embed_tokens.weight, model.lm_head.weight}:
            step = 2.0 ** torch.ceil(torch.log2(table.abs().max() / 127))
            table.copy_(torch.round(table / step).clamp(-126, 126) * step)
            table[:, 0] = 127 * step
    return model


def make_layout(layout: Layout, root: Path) -> None:
    folder = root / "onnx" / layout.name
    folder.mkdir(parents=True)
    model = load(layout, root / "models")
    exporter = Exporter(layout, model)
    graph = exporter.build()
    data = folder / ("onnx_model.data" if layout.is_older else "model.onnx.data")
    store_tensors(graph, exporter.graph, data, 1024 if layout.is_older else 0)
    opset, ir_version = (19, 9) if layout.is_older else (24, 10)
    names = ["trt"] if layout.is_older else ["trt_edgellm", "trt"] if layout.kind == "nvfp4" else ["trt_edgellm"]
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in names)]
    proto = helper.make_model(graph, opset_imports=domains, ir_version=ir_version, producer_name="pytorch")
    (folder / "model.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    config = config_json(layout, model.config, exporter.head_dim)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_tensors(folder / "embedding.safetensors", {"embedding": half(model.model.embed_tokens.weight)})
    if layout.is_quantized:
        adapter = first_layer(root / "process" / layout.model / f"{layout.adapter}.safetensors")
        write_quantized_logits(model, layout.kind, adapter, folder)


def first_layer(adapter: Path) -> dict[str, np.ndarray]:
    return {name: value for name, value in load_file(adapter).items() if name.startswith("model.layers.0.")}


@torch.no_grad()
def write_quantized_logits(model: PreTrainedModel, kind: str, adapter: dict[str, np.ndarray], folder: Path) -> None:
    """logits.safetensors: transformers with the weights that the graph computes with, without and with an adapter.

    The adapter is merged into those weights here: it belongs to what enters the layer, before AWQ's scales.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.weight"):
            parameter.copy_(dequantized(parameter, kind))
    tokens = torch.arange(0, 9 * 31, 31) % model.config.vocab_size
    results = {"tokens": tokens.numpy().astype(np.int32)}
    results["base"] = model(input_ids=tokens[None], use_cache=False).logits[0].numpy()
    for name, parameter in model.named_parameters():
        module = name.removesuffix(".weight")
        if f"{module}.lora_A.weight" in adapter:
            a, b = (torch.from_numpy(adapter[f"{module}.lora_{part}.weight"]).float() for part in "AB")
            parameter += (a @ b).T
    results["adapter"] = model(input_ids=tokens[None], use_cache=False).logits[0].numpy()
    write_tensors(folder / "logits.safetensors", results)
    write_tensors(folder / "processed_adapter_model.safetensors", adapter)


def make_onnx(root: Path) -> None:
    """onnx/LAYOUT/."""
    shutil.rmtree(root / "onnx", ignore_errors=True)
    for layout in LAYOUTS:
        make_layout(layout, root)
