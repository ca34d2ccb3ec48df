"""Writes a PEFT adapter of random values for the linear layers of a checkpoint, as PEFT saves it (f32).

    python scripts/make_random_adapter.py --model /tmp/qwen2.5-1.5b --rank 16 --out /tmp/adapter

With --gguf the same adapter is written as llama.cpp's file too; needs the package gguf.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from checkpoints import LINEAR, gguf_name, interleaved, linear_shapes, n_rotated_heads, write_safetensors


def make_tensors(config: dict, rank: int, seed: int) -> dict[str, np.ndarray]:
    """A and B of every linear module, under the names of the weights they change."""
    random = np.random.default_rng(seed)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (n, k) in linear_shapes(config | {"head_dim": head_dim}).items():
            name = f"model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = random.standard_normal((rank, k), np.float32) / np.float32(math.sqrt(k))
            tensors[f"{name}.lora_B.weight"] = random.standard_normal((n, rank), np.float32) * np.float32(0.02)
    return tensors


def write_peft(out: Path, tensors: dict[str, np.ndarray], rank: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shapes = {f"base_model.model.{name}": tensor.shape for name, tensor in tensors.items()}
    write_safetensors(out / "adapter_model.safetensors", "F32", shapes, tensors.values())
    targets = [module.rsplit(".", 1)[1] for module in LINEAR]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets}
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_gguf(path: Path, config: dict, tensors: dict[str, np.ndarray], rank: int) -> None:
    """F16, as the adapters of the engine are."""
    import gguf

    writer = gguf.GGUFWriter(path, config["model_type"])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 2.0 * rank)
    for name, tensor in tensors.items():
        module, side = name.removesuffix(".weight").rsplit(".", 1)
        if side == "lora_B" and (n_heads := n_rotated_heads(config, name)):
            tensor = interleaved(tensor, n_heads)
        writer.add_tensor(f"{gguf_name(module + '.weight')}.{side.lower()}", tensor.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gguf", type=Path)
    arguments = parser.parse_args()
    config = json.loads((arguments.model / "config.json").read_text())
    tensors = make_tensors(config, arguments.rank, arguments.seed)
    write_peft(arguments.out, tensors, arguments.rank)
    if arguments.gguf:
        write_gguf(arguments.gguf, config, tensors, arguments.rank)


if __name__ == "__main__":
    main()
