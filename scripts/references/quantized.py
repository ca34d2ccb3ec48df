"""Quantized checkpoints in each documented layout, and the logits of the same weights dequantized.

The packing here follows the formats' documents, by loops over nibbles, and shares nothing with the program.
Embedding tables are whole numbers of -127..127 times a power of two, so that int8 rows hold them exactly:
what is compared is the quantized layers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, PretrainedConfig, Qwen2Config, Qwen3Config

from .adapters import Adapter, lora, make_adapter
from .checkpoints import sizes, weight
from .common import normal, seeded, write_tensors
from .logits import attach_adapter, forward
from .process import processed_adapter

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
N_TOKENS = 12
ADAPTER = Adapter("all_r4", "every linear layer but the head", lora(4, 8), torch.float16)

Tensors = dict[str, torch.Tensor]
# Stored tensors by the part of their name behind the module, and the dequantized weight [out, in].
Packed = tuple[Tensors, torch.Tensor]
Packer = Callable[[torch.Tensor, torch.Generator], Packed]


def e4m3(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-448, 448).to(torch.float8_e4m3fn)


def words(codes: list[torch.Tensor]) -> torch.Tensor:
    """Eight tensors of nibbles, or four of bytes, to one of i32; the first lies lowest."""
    word = torch.zeros_like(codes[0], dtype=torch.int64)
    for place, code in enumerate(codes):
        word |= code.long() << (32 // len(codes) * place)
    return torch.where(word >= 1 << 31, word - (1 << 32), word).to(torch.int32)


def input_scale(generator: torch.Generator) -> Tensors:
    return {"input_scale": torch.rand((), generator=generator) + 0.01}


def pre_quant_scale(n: int, generator: torch.Generator) -> torch.Tensor:
    return (normal((n,), 0.5, generator).exp()).half()


def fp8(w: torch.Tensor, generator: torch.Generator) -> Packed:
    scale = w.abs().max() / 448
    q = e4m3(w / scale)
    return {"weight": q, "weight_scale": scale} | input_scale(generator), q.float() * scale


def fp8_with_cache(w: torch.Tensor, generator: torch.Generator) -> Packed:
    tensors, w = fp8(w, generator)
    return tensors | {"k_scale": torch.tensor(1.0)}, w


def mxfp8(w: torch.Tensor, _: torch.Generator) -> Packed:
    blocks = w.unflatten(1, (-1, 32))
    exponent = (blocks.abs().amax(dim=2) / 448).log2().ceil()
    q = e4m3(blocks / exponent.exp2().unsqueeze(2))
    tensors = {"weight": q.flatten(1), "weight_scale": (exponent + 127).to(torch.uint8)}
    return tensors, (q.float() * exponent.exp2().unsqueeze(2)).flatten(1)


def nvfp4(w: torch.Tensor, generator: torch.Generator) -> Packed:
    blocks = w.unflatten(1, (-1, 16))
    scale_2 = w.abs().max() / (6 * 448)
    scale = e4m3(blocks.abs().amax(dim=2) / 6 / scale_2)
    factor = scale.float() * scale_2
    scaled = blocks / factor.unsqueeze(2)
    code = (scaled.abs().unsqueeze(3) - E2M1).abs().argmin(dim=3)
    q = E2M1[code] * scaled.sign()
    nibbles = (code + 8 * (scaled < 0)).flatten(1)
    packed = (nibbles[:, 0::2] + 16 * nibbles[:, 1::2]).to(torch.uint8)
    tensors = {"weight": packed, "weight_scale": scale, "weight_scale_2": scale_2}
    return tensors | input_scale(generator), (q * factor.unsqueeze(2)).flatten(1)


def int8_sq(w: torch.Tensor, generator: torch.Generator) -> Packed:
    smooth = pre_quant_scale(w.shape[1], generator)
    smoothed = w / smooth.float()
    scale = smoothed.abs().amax(dim=1) / 127
    q = (smoothed / scale.unsqueeze(1)).round().to(torch.int8)
    tensors = {"weight": q, "weight_scale": scale, "pre_quant_scale": smooth}
    return tensors | input_scale(generator), q.float() * scale.unsqueeze(1) * smooth.float()


def int4_awq(group: int) -> Packer:
    def pack(w: torch.Tensor, generator: torch.Generator) -> Packed:
        smooth = pre_quant_scale(w.shape[1], generator)
        groups = (w / smooth.float()).unflatten(1, (-1, group))
        scale = groups.abs().amax(dim=2) / 7
        q = (groups / scale.unsqueeze(2)).round().clamp(-8, 7)
        bits = (q.flatten(1).long() & 15)
        packed = (bits[0::2] | bits[1::2] << 4).to(torch.uint8)
        tensors = {"weight": packed, "weight_scale": scale, "pre_quant_scale": smooth}
        return tensors, (q * scale.unsqueeze(2)).flatten(1) * smooth.float()

    return pack


@dataclass
class Groups:
    """Unsigned nibbles [out, in], scales and zeros [out, n_groups] and the group of each input."""

    q: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    index: torch.Tensor

    def weight(self) -> torch.Tensor:
        return (self.q - self.zero[:, self.index]).float() * self.scale.float()[:, self.index]


def grouped(w: torch.Tensor, index: torch.Tensor, symmetric: bool, most: int = 15, largest: int = 15) -> Groups:
    """`most` is the largest zero, `largest` the largest code."""
    n_groups, middle = int(index.max()) + 1, (largest + 1) // 2
    scale = torch.zeros(w.shape[0], n_groups, dtype=torch.float16)
    zero = torch.full((w.shape[0], n_groups), middle)
    for group in range(n_groups):
        values = w[:, index == group]
        low, high = values.amin(dim=1).clamp(max=0), values.amax(dim=1).clamp(min=0)
        if symmetric:
            scale[:, group] = (values.abs().amax(dim=1) / (middle - 1)).half()
        else:
            scale[:, group] = ((high - low) / largest).half()
            zero[:, group] = (-low / scale[:, group].float()).round().clamp(1, most).long()
    q = (w / scale.float()[:, index] + zero[:, index]).round().clamp(0, largest).long()
    return Groups(q, scale, zero, index)


def awq(group: int) -> Packer:
    def pack(w: torch.Tensor, _: torch.Generator) -> Packed:
        g = grouped(w, torch.arange(w.shape[1]) // group, symmetric=False)
        q, zero = g.q.T, g.zero.T
        tensors = {
            "qweight": words([q[:, place::8] for place in AWQ_ORDER]),
            "qzeros": words([zero[:, place::8] for place in AWQ_ORDER]),
            "scales": g.scale.T,
        }
        return tensors, g.weight()

    return pack


def gptq(
    group: int, *, bits: int = 4, symmetric: bool = False, order: bool = False, offset: int = 1, g_idx: bool = True
) -> Packer:
    largest, per_word = 2**bits - 1, 32 // bits

    def pack(w: torch.Tensor, generator: torch.Generator) -> Packed:
        n = w.shape[1]
        index = torch.arange(n) // (group if group > 0 else n)
        if order:
            index = index[torch.randperm(n, generator=generator)]
        g = grouped(w, index, symmetric, most=largest + offset, largest=largest)
        zero = g.zero.T - offset
        tensors = {
            "qweight": words([g.q.T[place::per_word] for place in range(per_word)]),
            "qzeros": words([zero[:, place::per_word] for place in range(per_word)]),
            "scales": g.scale.T,
        }
        return tensors | ({"g_idx": index.to(torch.int32)} if g_idx else {}), g.weight()

    return pack


@dataclass(frozen=True)
class Quantized:
    """One checkpoint. `packer` says how a module is stored; none: as f16."""

    name: str
    config: PretrainedConfig
    packer: Callable[[str], Packer | None]
    quantization_config: dict[str, Any] | None = None
    hf_quant_config: dict[str, Any] | None = None
    adapters: list[Adapter] = field(default_factory=list)


def all_layers(packer: Packer, head: Packer | None = None) -> Callable[[str], Packer | None]:
    return lambda module: head if module == "lm_head" else packer


def modelopt(algorithm: str, **more: Any) -> dict[str, Any]:
    quantization = {"quant_algo": algorithm, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]} | more
    return {"producer": {"name": "modelopt", "version": "0.39.0"}, "quantization": quantization}


def mixed(module: str) -> Packer | None:
    if module == "lm_head" or module.startswith("model.layers.1.mlp"):
        return None
    if module.startswith("model.layers.1."):
        return int4_awq(64)
    return fp8 if "self_attn" in module else nvfp4


MIXED_LAYERS = {
    **{f"model.layers.0.self_attn.{p}_proj": {"quant_algo": "FP8"} for p in "qkvo"},
    **{f"model.layers.0.mlp.{p}_proj": {"quant_algo": "NVFP4", "group_size": 16} for p in ("gate", "up", "down")},
    **{f"model.layers.1.self_attn.{p}_proj": {"quant_algo": "W4A16_AWQ", "group_size": 64} for p in "qkvo"},
}


def llama(hidden: int, inter: int, layers: int = 1, **more: Any) -> PretrainedConfig:
    return LlamaConfig(**sizes(hidden, inter, layers, 4, 2, 96) | {"tie_word_embeddings": False} | more)


def qwen2(hidden: int, inter: int, **more: Any) -> PretrainedConfig:
    return Qwen2Config(**sizes(hidden, inter, 1, 4, 2, 96) | {"tie_word_embeddings": True} | more)


def qwen3(hidden: int, inter: int, **more: Any) -> PretrainedConfig:
    return Qwen3Config(**sizes(hidden, inter, 1, 4, 2, 96) | {"head_dim": 32, "tie_word_embeddings": True} | more)


def phi3(hidden: int, inter: int, **more: Any) -> PretrainedConfig:
    """Fused q, k, v and gate, up."""
    return Phi3Config(
        **sizes(hidden, inter, 1, 4, 2, 96) | {"tie_word_embeddings": False, "pad_token_id": 0} | more
    )  # fmt: skip


def gptq_config(group: int, **more: Any) -> dict[str, Any]:
    return {
        "quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": False, "sym": False,
        "checkpoint_format": "gptq", "damp_percent": 0.1, "true_sequential": True,
    } | more  # fmt: skip


def awq_config(group: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"} | more


QUANTIZED = [
    Quantized(
        "fp8", llama(72, 100), all_layers(fp8_with_cache, head=fp8),
        hf_quant_config=modelopt("FP8", kv_cache_quant_algo="FP8", exclude_modules=[]),
    ),
    Quantized(
        "int4_awq", qwen2(128, 256), all_layers(int4_awq(128)),
        hf_quant_config=modelopt("W4A16_AWQ", group_size=128, has_zero_point=False, pre_quant_scale=True),
        adapters=[ADAPTER],
    ),
    Quantized("nvfp4", qwen3(48, 80), all_layers(nvfp4), hf_quant_config=modelopt("NVFP4", group_size=16)),
    Quantized("int8_sq", llama(64, 96), all_layers(int8_sq), hf_quant_config=modelopt("W8A8_SQ_PER_CHANNEL")),
    Quantized("mxfp8", qwen3(64, 96), all_layers(mxfp8), hf_quant_config=modelopt("MXFP8", group_size=32)),
    Quantized(
        "mixed", llama(64, 128, layers=2), mixed,
        quantization_config={
            "quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": MIXED_LAYERS,
            "kv_cache_quant_algo": None, "exclude_modules": ["lm_head", "model.layers.1.mlp*"],
        },
    ),
    Quantized(
        "awq_g128", qwen2(128, 128), lambda module: None if "down_proj" in module else awq(128),
        awq_config(128, modules_to_not_convert=["down_proj"]),
    ),
    Quantized("awq_g64", llama(64, 128), all_layers(awq(64)), awq_config(64), adapters=[ADAPTER]),
    Quantized(
        "gptq_order", llama(64, 96), all_layers(gptq(32, order=True)), gptq_config(32, desc_act=True),
        adapters=[ADAPTER],
    ),
    Quantized("gptq_symmetric", qwen2(128, 128), all_layers(gptq(128, symmetric=True)), gptq_config(128, sym=True)),
    Quantized(
        "gptq_v2", qwen3(64, 128), all_layers(gptq(64, offset=0, g_idx=False)),
        gptq_config(64, checkpoint_format="gptq_v2"),
    ),
    Quantized("gptq_row", llama(96, 160), all_layers(gptq(-1)), gptq_config(-1)),
    Quantized(
        "fused_int4_awq", phi3(64, 128), all_layers(int4_awq(64)),
        hf_quant_config=modelopt("W4A16_AWQ", group_size=64, has_zero_point=False, pre_quant_scale=True),
        adapters=[ADAPTER],
    ),
    Quantized("fused_gptq", phi3(64, 96), all_layers(gptq(32, order=True)), gptq_config(32, desc_act=True)),
]  # fmt: skip


def table(shape: torch.Size, std: float, generator: torch.Generator) -> torch.Tensor:
    """Rows of -127..127 times a power of two; each row reaches 127."""
    codes = normal(shape, 40.0, generator).round().clamp(-127, 127)
    codes[:, 0] = 127
    return codes * 2.0 ** round(np.log2(std / 40))


def make_weights(spec: Quantized) -> tuple[Tensors, Tensors]:
    """What is stored, and what the model computes with."""
    generator = seeded("quantized", spec.name)
    model = AutoModelForCausalLM.from_config(spec.config, dtype=torch.float32)
    stored, dequantized = {}, {}
    for key, parameter in sorted(model.named_parameters()):
        module, part = key.rsplit(".", 1)
        values = weight(key, parameter.shape, spec.config.tie_word_embeddings, generator).half()
        packer = spec.packer(module) if module.endswith("_proj") or module == "lm_head" else None
        if part == "weight" and packer:
            tensors, dequantized[key] = packer(values.float(), generator)
            stored |= {f"{module}.{name}": tensor for name, tensor in tensors.items()}
            continue
        if module.endswith("embed_tokens") or module == "lm_head":
            std = 3.0 / spec.config.hidden_size**0.5 if module == "lm_head" or spec.config.tie_word_embeddings else 1.0
            values = table(parameter.shape, std, generator).half()
        stored[key], dequantized[key] = values, values.float()
    return stored, dequantized


def load_dequantized(spec: Quantized, dequantized: Tensors) -> Any:
    model = AutoModelForCausalLM.from_config(spec.config, dtype=torch.float32, attn_implementation="eager")
    missing = model.load_state_dict(dequantized, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


def write_config(spec: Quantized, folder: Path) -> None:
    spec.config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    name = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "phi3": "Phi3ForCausalLM"}
    config |= {"architectures": [name[config["model_type"]]], "dtype": "float16"}
    if spec.quantization_config:
        config["quantization_config"] = spec.quantization_config
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if spec.hf_quant_config:
        (folder / "hf_quant_config.json").write_text(json.dumps(spec.hf_quant_config, indent=4) + "\n")


def make_one(spec: Quantized, folder: Path) -> None:
    stored, dequantized = make_weights(spec)
    write_config(spec, folder)
    save_file({name: stored[name].contiguous() for name in sorted(stored)}, folder / "model.safetensors")
    tokens = torch.randint(0, spec.config.vocab_size, (1, N_TOKENS), generator=seeded("quantized", spec.name, "tokens"))
    result = {"tokens": tokens[0].numpy().astype(np.int32)}
    result["base"] = forward(load_dequantized(spec, dequantized), tokens)[0].numpy()
    for adapter in spec.adapters:
        target = folder / "adapters" / adapter.name
        make_adapter(load_dequantized(spec, dequantized), spec.name, adapter, target)
        model = attach_adapter(load_dequantized(spec, dequantized), target, processed_adapter(target))
        result[adapter.name] = forward(model, tokens)[0].numpy()
    write_tensors(folder / "logits.safetensors", result)


def make_quantized(root: Path, specs: list[Quantized]) -> None:
    """quantized/NAME/: a checkpoint, its adapters and logits.safetensors."""
    for spec in specs:
        folder = root / "quantized" / spec.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make_one(spec, folder)
