#!/usr/bin/env python3
"""Writes tests/data/references/static: a small Phi-4-multimodal as the code that comes with it saves it, in shards.

Each linear layer of the decoder is `X.base_layer.weight` with the pairs of the adapters `vision` and `speech` beside
it; `vision-lora` and `speech-lora` have the configurations of those. `adapters/user` is a PEFT adapter for the model
with `vision` merged. logits.safetensors holds what the formulas of Phi-3 give in numpy, f32: `merged` with vision
merged, `user` with the adapter on top of it.

    python -m venv /tmp/v && /tmp/v/bin/pip install numpy safetensors
    /tmp/v/bin/python scripts/make_static_fixture.py
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "references" / "static"
VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE = 128, 64, 2, 4, 2, 16, 96
ROTARY, MAX_POSITIONS, ORIGINAL, THETA, EPS = 12, 8192, 2048, 10000.0, 1e-5
RANKS = {"vision": 4, "speech": 6}
USER_RANK = 3
SHAPES = {
    "self_attn.qkv_proj": ((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_up_proj": (2 * INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
SHORT_FACTORS = [1.0, 1.07, 1.14, 1.21, 1.28, 1.35]
CONFIG = {
    "architectures": ["Phi4MMForCausalLM"], "model_type": "phi4mm", "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16",
    "embd_layer": {"embedding_cls": "image_audio"}, "full_attn_mod": 1, "hidden_act": "silu", "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE, "lm_head_bias": False, "max_position_embeddings": MAX_POSITIONS,
    "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS,
    "original_max_position_embeddings": ORIGINAL, "partial_rotary_factor": 0.75, "rms_norm_eps": EPS,
    "rope_scaling": {"type": "longrope", "short_factor": SHORT_FACTORS, "long_factor": [1.1, 2.0, 4.7, 9.2, 15.5, 23.6]},
    "rope_theta": THETA, "sliding_window": None, "tie_word_embeddings": True, "vocab_size": VOCAB,
    "vision_lora": {"dp": 0.0, "layer": "layers.*", "lora_alpha": 8, "r": 4},
    "speech_lora": {"dp": 0.0, "layer": "layers.*", "lora_alpha": 12, "r": 6},
}  # fmt: skip
Tensors = dict[str, np.ndarray]


def rounded(values: np.ndarray) -> np.ndarray:
    """To the nearest bf16, as f32."""
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype("<u4").view("<f4")


def write_bf16(path: Path, tensors: Tensors) -> None:
    """safetensors of values that are bf16 already; numpy has no such type."""
    header, data = {}, b""
    for name, values in sorted(tensors.items()):
        halves = np.ascontiguousarray(values.astype("<f4").view("<u2").reshape(-1)[1::2]).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(halves)]}
        data += halves
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def make_tensors() -> Tensors:
    """Of the checkpoint, by its names."""
    rng = np.random.default_rng(15)

    def normal(*shape: int, scale: float) -> np.ndarray:
        return rounded(rng.normal(scale=scale, size=shape))

    tensors = {"model.embed_tokens.weight": normal(VOCAB, HIDDEN, scale=0.3), "model.norm.weight": 1 + normal(HIDDEN, scale=0.1)}
    for layer in range(LAYERS):
        path = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{path}.{norm}.weight"] = 1 + normal(HIDDEN, scale=0.1)
        for module, (n, k) in SHAPES.items():
            tensors[f"{path}.{module}.base_layer.weight"] = normal(n, k, scale=0.12)
            for name, rank in RANKS.items():
                tensors[f"{path}.{module}.lora_A.{name}.weight"] = normal(rank, k, scale=0.1)
                tensors[f"{path}.{module}.lora_B.{name}.weight"] = normal(n, rank, scale=0.1)
    for tower in ("image_embed.img_projection.0", "audio_embed.audio_projection.speech.0"):
        tensors[f"model.embed_tokens_extend.{tower}.weight"] = normal(6, 4, scale=0.2)
    return {name: rounded(values) for name, values in tensors.items()}


def make_adapter() -> Tensors:
    """PEFT's names."""
    rng = np.random.default_rng(16)
    tensors = {}
    for layer in range(LAYERS):
        for module, (n, k) in SHAPES.items():
            path = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{path}.lora_A.weight"] = rng.normal(scale=0.1, size=(USER_RANK, k)).astype(np.float32)
            tensors[f"{path}.lora_B.weight"] = rng.normal(scale=0.1, size=(n, USER_RANK)).astype(np.float32)
    return tensors


def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS)


def rotate(x: np.ndarray) -> np.ndarray:
    """[tokens, heads, head_dim]"""
    inverse = 1 / (THETA ** (np.arange(0, ROTARY, 2) / ROTARY) * np.array(SHORT_FACTORS))
    angles = np.concatenate([np.outer(np.arange(len(x)), inverse)] * 2, axis=1)[:, None]
    factor = np.sqrt(1 + np.log(MAX_POSITIONS / ORIGINAL) / np.log(ORIGINAL))
    part, rest = x[..., :ROTARY], x[..., ROTARY:]
    half = ROTARY // 2
    turned = np.concatenate([-part[..., half:], part[..., :half]], axis=-1)
    return np.concatenate([part * np.cos(angles) * factor + turned * np.sin(angles) * factor, rest], axis=-1)


def logits(tensors: Tensors, linear: Tensors, tokens: np.ndarray) -> np.ndarray:
    """[tokens, vocab] of Phi-3 with these linear layers."""
    x = tensors["model.embed_tokens.weight"][tokens].astype(np.float64)
    n = len(tokens)
    hidden = np.triu(np.full((n, n), -np.inf), 1)
    for layer in range(LAYERS):
        path = f"model.layers.{layer}"
        y = norm(x, tensors[f"{path}.input_layernorm.weight"]) @ linear[f"{path}.self_attn.qkv_proj"].T
        q, k, v = np.split(y.reshape(n, -1, HEAD_DIM), [HEADS, HEADS + KV_HEADS], axis=1)
        q, k = rotate(q), rotate(k)
        k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(HEAD_DIM) + hidden
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", shares, v).reshape(n, -1) @ linear[f"{path}.self_attn.o_proj"].T
        y = norm(x, tensors[f"{path}.post_attention_layernorm.weight"]) @ linear[f"{path}.mlp.gate_up_proj"].T
        gate, up = np.split(y, 2, axis=1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ linear[f"{path}.mlp.down_proj"].T
    return (norm(x, tensors["model.norm.weight"]) @ tensors["model.embed_tokens.weight"].T).astype(np.float32)


def main() -> None:
    model = OUT / "phi4mm"
    (model / "adapters" / "user").mkdir(parents=True, exist_ok=True)
    tensors, adapter = make_tensors(), make_adapter()
    names = sorted(tensors)
    shards = [names[:1], [name for name in names[1:] if ".layers.0." in name], [name for name in names[1:] if ".layers.0." not in name]]
    files = [f"model-{i + 1:05}-of-00003.safetensors" for i in range(3)]
    for file, shard in zip(files, shards):
        write_bf16(model / file, {name: tensors[name] for name in shard})
    index = {"metadata": {}, "weight_map": {name: file for file, shard in zip(files, shards) for name in shard}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (model / "config.json").write_text(json.dumps(CONFIG, indent=2, sort_keys=True) + "\n")
    modules = [module.split(".")[1] for module in SHAPES]
    for folder, rank, alpha in (("vision-lora", 4, 8), ("speech-lora", 6, 12), ("adapters/user", USER_RANK, 6)):
        (model / folder).mkdir(exist_ok=True)
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "target_modules": modules}
        (model / folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(adapter, model / "adapters" / "user" / "adapter_model.safetensors")

    merged, user = {}, {}
    for layer in range(LAYERS):
        for module in SHAPES:
            path = f"model.layers.{layer}.{module}"
            a, b = (tensors[f"{path}.lora_{half}.vision.weight"] for half in "AB")
            merged[path] = tensors[f"{path}.base_layer.weight"] + 8 / 4 * b @ a
            a, b = (adapter[f"base_model.model.{path}.lora_{half}.weight"] for half in "AB")
            user[path] = merged[path] + 6 / USER_RANK * b @ a
    tokens = np.random.default_rng(17).integers(3, 97, size=20).astype(np.int32)
    found = {"tokens": tokens, "merged": logits(tensors, merged, tokens), "user": logits(tensors, user, tokens)}
    save_file(found, OUT / "logits.safetensors")
    for path in OUT.rglob("*.safetensors"):
        path.chmod(0o644)
    print({name: float(np.abs(values).max()) for name, values in found.items()})


if __name__ == "__main__":
    main()
