#!/usr/bin/env python3
"""Writes quantized checkpoints of documented layouts whose library needs more than numpy to run, and their logits.

tests/data/references/quantized/NAME, each a Llama of one layer:
  auto_round_awq   AutoRound packed as AutoAWQ packs (`auto_round:auto_awq`): 4 bits, groups of 32 inputs, eight outputs to
                   a word in the order 0 2 4 6 1 3 5 7, zeros likewise; W = (q - zero) * scale
  fp8_tensor       `quant_method: fp8` with `weight_block_size: null`, as transformers writes and reads it: E4M3 with one
                   `weight_scale_inv` for a matrix, which multiplies, and an `activation_scale`
  fp8_scale        the same as AutoFP8 writes and vLLM reads it: `weight_scale` of one element, `ignored_layers`
logits.safetensors holds what Llama's formulas give in numpy with the numbers that the layout stands for, f64 rounded to f32.

    python -m venv /tmp/v && /tmp/v/bin/pip install numpy
    /tmp/v/bin/python scripts/make_layout_fixtures.py
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "references" / "quantized"
VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, THETA, EPS = 48, 64, 4, 2, 16, 64, 10000.0, 1e-6
GROUP = 32
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
MODULES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1, "dtype": "float16", "eos_token_id": 2,
    "head_dim": HEAD_DIM, "hidden_act": "silu", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": 512, "mlp_bias": False, "model_type": "llama", "num_attention_heads": HEADS,
    "num_hidden_layers": 1, "num_key_value_heads": KV_HEADS, "rms_norm_eps": EPS, "rope_scaling": None,
    "rope_theta": THETA, "tie_word_embeddings": False, "vocab_size": VOCAB,
}  # fmt: skip
# Type in the file, shape, bytes.
Stored = tuple[str, list[int], bytes]
Packed = tuple[dict[str, Stored], np.ndarray]


def stored(kind: str, values: np.ndarray) -> Stored:
    types = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "F8_E4M3": "u1"}
    return kind, list(values.shape), np.ascontiguousarray(values.astype(types[kind])).tobytes()


def write(path: Path, tensors: dict[str, Stored]) -> None:
    header, data = {}, b""
    for name, (kind, shape, part) in sorted(tensors.items()):
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def e4m3_numbers() -> np.ndarray:
    """The 127 finite numbers from 0 up, by code: 4 bits of exponent (bias 7), 3 of mantissa (OCP's float8 E4M3)."""
    codes = np.arange(127)
    exponent, mantissa = codes >> 3, (codes & 7) / 8
    return np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7.0))


def e4m3(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the nearest numbers, and these."""
    numbers = e4m3_numbers()
    code = np.abs(np.abs(values)[..., None] - numbers).argmin(-1)
    return code + 128 * (values < 0), numbers[code] * np.sign(values)


def fp8(scale_name: str, shape: list[int]) -> Callable[[np.ndarray], Packed]:
    def pack(w: np.ndarray) -> Packed:
        scale = np.float32(np.abs(w).max() / 448)
        code, numbers = e4m3(w / scale)
        input_name = "activation_scale" if scale_name.endswith("_inv") else "input_scale"
        tensors = {
            "weight": stored("F8_E4M3", code),
            scale_name: stored("F32", scale.reshape(shape)),
            input_name: stored("F32", np.float32(0.02).reshape(shape)),
        }
        return tensors, numbers * np.float64(scale)

    return pack


def awq(w: np.ndarray) -> Packed:
    """Words are [in, out / 8] and [groups, out / 8]; scales f16 [groups, out]."""
    groups = w.reshape(len(w), -1, GROUP)
    low, high = groups.min(2).clip(max=0), groups.max(2).clip(min=0)
    scale = ((high - low) / 15).astype(np.float16).astype(np.float64)
    zero = np.rint(-low / scale).clip(0, 15)
    q = np.rint(groups / scale[..., None] + zero[..., None]).clip(0, 15)

    def words(codes: np.ndarray) -> np.ndarray:
        parts = codes.reshape(len(codes), -1, 8).astype(np.uint32)
        word = sum(parts[..., output] << np.uint32(4 * place) for place, output in enumerate(AWQ_ORDER))
        return word.astype(np.uint32).view(np.int32)

    tensors = {
        "qweight": stored("I32", words(q.reshape(len(w), -1).T)),
        "qzeros": stored("I32", words(zero.T)),
        "scales": stored("F16", scale.T),
    }
    return tensors, ((q - zero[..., None]) * scale[..., None]).reshape(w.shape)


FP8 = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"], "weight_block_size": None}
CASES: dict[str, tuple[Callable[[np.ndarray], Packed], dict]] = {
    "auto_round_awq": (awq, {
        "quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4, "group_size": GROUP, "sym": False,
        "data_type": "int", "act_bits": 16, "autoround_version": "0.9.0", "block_name_to_quantize": "model.layers",
    }),
    "fp8_tensor": (fp8("weight_scale_inv", []), FP8 | {"activation_scheme": "static", "dequantize": False}),
    "fp8_scale": (fp8("weight_scale", [1]), {
        "quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"],
    }),
}  # fmt: skip


def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS)


def rotate(x: np.ndarray) -> np.ndarray:
    """[tokens, heads, head_dim]"""
    inverse = THETA ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = np.concatenate([np.outer(np.arange(len(x)), inverse)] * 2, axis=1)[:, None]
    turned = np.concatenate([-x[..., HEAD_DIM // 2 :], x[..., : HEAD_DIM // 2]], axis=-1)
    return x * np.cos(angles) + turned * np.sin(angles)


def logits(plain: dict[str, np.ndarray], linear: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """[tokens, vocab]"""
    x = plain["model.embed_tokens.weight"][tokens]
    n, layer = len(tokens), "model.layers.0"
    y = norm(x, plain[f"{layer}.input_layernorm.weight"])
    q, k, v = ((y @ linear[f"self_attn.{part}_proj"].T).reshape(n, -1, HEAD_DIM) for part in "qkv")
    q, k = rotate(q), rotate(k)
    k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(HEAD_DIM) + np.triu(np.full((n, n), -np.inf), 1)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    x = x + np.einsum("hqk,khd->qhd", shares, v).reshape(n, -1) @ linear["self_attn.o_proj"].T
    y = norm(x, plain[f"{layer}.post_attention_layernorm.weight"])
    gate, up = y @ linear["mlp.gate_proj"].T, y @ linear["mlp.up_proj"].T
    x = x + (gate / (1 + np.exp(-gate)) * up) @ linear["mlp.down_proj"].T
    return norm(x, plain["model.norm.weight"]) @ plain["lm_head.weight"].T


def make(name: str, pack: Callable[[np.ndarray], Packed], quantization: dict, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def plain_of(shape: tuple[int, ...], mean: float, scale: float) -> np.ndarray:
        return rng.normal(mean, scale, size=shape).astype(np.float16).astype(np.float64)

    # Whole numbers times a power of two, so that int8 rows hold the tables exactly.
    tables = np.rint(rng.normal(0, 40, size=(2, VOCAB, HIDDEN))).clip(-127, 127)
    tables[..., 0] = 127
    plain = {"model.embed_tokens.weight": tables[0] / 64, "lm_head.weight": tables[1] / 128}
    plain["model.norm.weight"] = plain_of((HIDDEN,), 1, 0.1)
    for part in ("input_layernorm", "post_attention_layernorm"):
        plain[f"model.layers.0.{part}.weight"] = plain_of((HIDDEN,), 1, 0.1)
    tensors = {key: stored("F16", values) for key, values in plain.items()}
    linear = {}
    for module, shape in MODULES.items():
        packed, linear[module] = pack(rng.normal(0, 0.15, size=shape))
        tensors |= {f"model.layers.0.{module}.{part}": tensor for part, tensor in packed.items()}
    folder = OUT / name
    folder.mkdir(exist_ok=True)
    write(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": quantization}, indent=2, sort_keys=True) + "\n")
    tokens = rng.integers(3, VOCAB, size=12)
    found = logits(plain, linear, tokens)
    write(folder / "logits.safetensors", {"base": stored("F32", found), "tokens": stored("I32", tokens)})
    print(f"{name}: logits up to {np.abs(found).max():.2f}")


def main() -> None:
    for seed, (name, (pack, quantization)) in enumerate(CASES.items()):
        make(name, pack, quantization, 150 + seed)


if __name__ == "__main__":
    main()
