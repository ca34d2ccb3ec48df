"""Writes a PEFT adapter of random values for the linear layers of a checkpoint, as PEFT saves it (f32).

    python scripts/make_random_adapter.py --model /tmp/qwen2.5-1.5b --rank 16 --out /tmp/adapter
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    tensors = {}
    for path in sorted(arguments.model.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                module = name.removesuffix(".weight")
                if module.rsplit(".", 1)[-1] not in LINEAR or module == name:
                    continue
                n, k = file.get_slice(name).get_shape()
                tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(arguments.rank, k) * k**-0.5
                tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(n, arguments.rank) * 0.02
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, arguments.out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": arguments.rank, "lora_alpha": 2 * arguments.rank, "target_modules": LINEAR}
    (arguments.out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
