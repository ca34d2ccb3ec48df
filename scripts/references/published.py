"""Checkpoints as compressed-tensors, AutoRound and bitsandbytes publish them, packed and read back by these libraries;
and fp8 in blocks, as DeepSeek's `weight_dequant` reads it.

Needs scripts/requirements-published.txt beside scripts/requirements.txt.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import bitsandbytes.functional as bitsandbytes
import torch
from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute as plain_dequantize
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.quantized_compressors.nvfp4_quantized import unpack_fp4_from_uint8
from compressed_tensors.compressors.quantized_compressors.pack_quantized import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

from .quantized import Packed, Packer, Quantized, all_layers, e4m3, gptq, gptq_config, llama, qwen2

# What input_activations of llm-compressor's presets hold.
DYNAMIC_INT8 = QuantizationArgs(num_bits=8, type="int", strategy="token", dynamic=True)
DYNAMIC_FP8 = QuantizationArgs(num_bits=8, type="float", strategy="token", dynamic=True)


def ends(w: torch.Tensor, args: QuantizationArgs, index: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and largest weights of what shares a scale."""
    if args.strategy == "tensor":
        return w.amin(), w.amax()
    if args.strategy == "channel":
        return w.amin(dim=1, keepdim=True), w.amax(dim=1, keepdim=True)
    if args.strategy == "block":
        rows, columns = args.block_structure
        blocks = w.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
        return blocks.amin(dim=(1, 3)), blocks.amax(dim=(1, 3))
    if index is not None:
        w = w[:, torch.argsort(index, stable=True)]
    groups = w.unflatten(1, (-1, args.group_size))
    return groups.amin(dim=2), groups.amax(dim=2)


def compressed(form: str, args: QuantizationArgs, scale_type: torch.dtype = torch.bfloat16) -> Packer:
    """Packs with the library's compressor of that name and reads back with its functions."""

    def pack(w: torch.Tensor, generator: torch.Generator) -> Packed:
        index = None
        if args.actorder == "group":
            index = torch.arange(w.shape[1]) // args.group_size
            index = index[torch.randperm(w.shape[1], generator=generator)].to(torch.int32)
        outer = generate_gparam(w.amin(), w.amax()).reshape(1) if form == "nvfp4-pack-quantized" else None
        scale, zero = calculate_qparams(*ends(w, args, index), args, global_scale=outer)
        if outer is None:
            scale = scale.to(scale_type)
        tensors = {"weight_scale": scale}
        wide = scale.float()
        compressor = BaseCompressor.load_from_registry(form)
        more = {"global_scale": outer} if outer is not None else {}
        packed = compressor.compress_weight(
            weight=w, scale=wide, zero_point=None if args.symmetric else zero, g_idx=index,
            quantization_args=args, **more,
        )  # fmt: skip
        tensors |= packed
        if index is not None:
            tensors["weight_g_idx"] = index
        if outer is not None:
            tensors |= {"weight_global_scale": outer, "input_global_scale": torch.ones(1)}
            q = unpack_fp4_from_uint8(packed["weight_packed"], *w.shape).float()
        elif "weight_packed" in packed:
            q = unpack_from_int32(packed["weight_packed"], args.num_bits, w.shape)
            if not args.symmetric:
                shape = (w.shape[0], scale.shape[1])
                zero = unpack_from_int32(packed["weight_zero_point"], args.num_bits, shape, packed_dim=0)
        else:
            q = packed["weight"]
        numbers = dequantize(
            q, wide, None if args.symmetric else zero, args=args, dtype=torch.float32, g_idx=index, global_scale=outer
        )
        return {name: tensor.contiguous() for name, tensor in tensors.items()}, numbers

    return pack


def by_name(groups: list[tuple[str, QuantizationArgs, str]]) -> Callable[[str], Packer | None]:
    """The packer of the first group that fits the module's name; none for the head."""

    def choose(module: str) -> Packer | None:
        return next((compressed(form, args) for part, args, form in groups if re.search(part, module)), None)

    return choose


def compressed_config(
    groups: list[tuple[str, QuantizationArgs, str]], form: str, inputs: QuantizationArgs | None = None, **more: Any
) -> dict[str, Any]:
    """As `save_pretrained` of a compressed model writes it."""
    schemes = {}
    for number, (part, args, own) in enumerate(groups):
        targets = ["Linear"] if part == "proj" else [f"re:.*{part}$"]
        scheme = QuantizationScheme(targets=targets, weights=args, input_activations=inputs, format=own)
        schemes[f"group_{number}"] = scheme
    config = QuantizationConfig(
        config_groups=schemes, format=form, quantization_status="compressed", ignore=["lm_head"], **more
    )
    return config.model_dump(mode="json") | {"quant_method": "compressed-tensors"}


def ints(bits: int, strategy: str, **more: Any) -> QuantizationArgs:
    return QuantizationArgs(num_bits=bits, type="int", strategy=strategy, **more)


PACK, INT, FLOAT, NVFP4 = "pack-quantized", "int-quantized", "float-quantized", "nvfp4-pack-quantized"
PACKED = [
    ("q_proj", ints(4, "group", group_size=64), PACK),
    ("k_proj", ints(4, "channel", symmetric=False), PACK),
    ("v_proj", ints(4, "group", group_size=32, symmetric=False, actorder="group"), PACK),
    ("gate_proj", ints(8, "group", group_size=32), PACK),
    ("up_proj", ints(8, "group", group_size=32, symmetric=False, actorder="group"), PACK),
    ("down_proj", ints(8, "channel"), PACK),
    # The class is the last to be asked.
    ("proj", ints(4, "group", group_size=32, actorder="weight"), PACK),
]
FLOATS = [
    ("down_proj", QuantizationArgs(num_bits=8, type="float", strategy="tensor"), FLOAT),
    # up_proj is no target.
    ("(q|k|v|gate)_proj", QuantizationArgs(num_bits=8, type="float", strategy="channel"), FLOAT),
    ("o_proj", QuantizationArgs(num_bits=8, type="float", strategy="block", block_structure=[32, 32]), FLOAT),
]
MIXED = [
    ("self_attn.*", ints(8, "channel"), INT),
    ("mlp.*", QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16), NVFP4),
]


def fp8_blocks(rows: int, columns: int) -> Packer:
    def pack(w: torch.Tensor, _: torch.Generator) -> Packed:
        places = [(i, j) for i in range(0, w.shape[0], rows) for j in range(0, w.shape[1], columns)]
        n_across = -(-w.shape[1] // columns)
        scale = torch.tensor([float(w[i : i + rows, j : j + columns].abs().max()) / 448 for i, j in places])
        scale = scale.reshape(-1, n_across)
        full = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: w.shape[0], : w.shape[1]]
        q = e4m3(w / full)
        return {"weight": q, "weight_scale_inv": scale}, q.float() * full

    return pack


def auto_round(bits: int, group: int, library: Any, symmetric: bool) -> Packer:
    """Scales are powers of two, for the library multiplies in f16."""

    def pack(w: torch.Tensor, _: torch.Generator) -> Packed:
        groups = w.unflatten(1, (-1, group))
        low, high = groups.amin(dim=2).clamp(max=0), groups.amax(dim=2).clamp(min=0)
        most = 2**bits - 1
        scale = ((high - low) / most).log2().ceil().exp2()
        zero = (-low / scale).round().clamp(1, most)
        if symmetric:
            scale, zero = (groups.abs().amax(dim=2) * 2 / most).log2().ceil().exp2(), 2 ** (bits - 1)
        layer = library.QuantLinear(bits, group, w.shape[1], w.shape[0], bias=False)
        layer.device = "cpu"
        linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
        linear.weight.data = w
        layer.pack_248_bits(linear, scale, zero, device="cpu")
        layer.eval()
        numbers = layer(torch.eye(w.shape[1])).T.float()
        return {name: getattr(layer, name).contiguous() for name in ("qweight", "qzeros", "scales")}, numbers

    return pack


def auto_round_config(packing: str, **more: Any) -> dict[str, Any]:
    return {
        "quant_method": "auto-round", "packing_format": packing, "bits": 4, "group_size": 32, "sym": False,
        "data_type": "int", "act_bits": 16, "autoround_version": "0.9.0", "block_name_to_quantize": "model.layers",
    } | more  # fmt: skip


def four_bits(kind: str, is_nested: bool) -> Packer:
    def pack(w: torch.Tensor, _: torch.Generator) -> Packed:
        q, state = bitsandbytes.quantize_4bit(
            w.contiguous(), blocksize=64, compress_statistics=is_nested, quant_type=kind
        )
        tensors = {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
        scales = state.absmax
        if is_nested:
            scales = bitsandbytes.dequantize_blockwise(scales, state.state2) + state.offset
        # What the library does without code for a processor: that for AVX-512 (0.50.2) begins a block with each row.
        return {"weight": q} | tensors, plain_dequantize(
            q.reshape(-1), scales, state.code, state.blocksize, state.shape, state.dtype
        )

    return pack


def four_bits_config(kind: str, is_nested: bool) -> dict[str, Any]:
    return {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": is_nested, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": None,
    }  # fmt: skip


def round_native(module: str) -> Packer | None:
    if module == "lm_head" or module.endswith("down_proj"):
        return None
    return auto_round(8 if "mlp" in module else 4, 32, qlinear_torch, symmetric=False)


# Tables of few words: what is looked at is the layers.
SMALL = {"vocab_size": 48}
PUBLISHED = [
    Quantized("ct_packed", llama(64, 64, **SMALL), by_name(PACKED), compressed_config(PACKED, PACK)),
    Quantized("ct_float", llama(64, 96, **SMALL), by_name(FLOATS), compressed_config(FLOATS, FLOAT, DYNAMIC_FP8)),
    Quantized(
        "ct_mixed", llama(64, 80, **SMALL), by_name(MIXED), compressed_config(MIXED, "mixed-precision", DYNAMIC_INT8)
    ),
    Quantized(
        "fp8_blocks", qwen2(72, 100, **SMALL), all_layers(fp8_blocks(64, 64)),
        {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [64, 64]},
    ),
    Quantized(
        "gptq_8bit", llama(64, 64, **SMALL), all_layers(gptq(32, order=True, bits=8)), gptq_config(32, bits=8, desc_act=True)
    ),
    Quantized(
        "auto_round_gptq", llama(64, 64, **SMALL), all_layers(auto_round(4, 32, qlinear_torch_zp, symmetric=True)),
        auto_round_config("auto_round:auto_gptq", sym=True),
    ),
    Quantized(
        "auto_round", llama(64, 64, **SMALL), round_native,
        auto_round_config("auto_round", extra_config={
            ".*mlp\\.(gate|up)_proj": {"bits": 8}, "model.layers.0.mlp.down_proj": {"bits": 16},
        }),
    ),
    Quantized(
        "nf4", llama(64, 96, **SMALL), lambda m: None if m == "lm_head" else four_bits("nf4", "self_attn" in m),
        four_bits_config("nf4", is_nested=True),
    ),
    # Rows of 80 inputs are no whole groups of 32.
    Quantized(
        "fp4", llama(64, 80, **SMALL), lambda m: None if m == "lm_head" else four_bits("fp4", is_nested=False),
        four_bits_config("fp4", is_nested=False),
    ),
]  # fmt: skip
