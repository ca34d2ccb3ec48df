"""Phi-4-multimodal as the code that comes with it saves it: a Phi-3 whose linear layers are wrapped.

Each `X.weight` of a layer's linear becomes `X.base_layer.weight`, with the pairs of the adapters `vision` and
`speech` beside it; the towers are under `model.embed_tokens_extend`. transformers has no class for this layout,
so the reference is Phi-3's own class with the names put back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedModel

from .common import normal, seeded

LINEAR = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
RANKS = {"vision": 4, "speech": 6}


def is_phi4mm(folder: Path) -> bool:
    """Whether the checkpoint has this layout."""
    return json.loads((folder / "config.json").read_text())["model_type"] == "phi4mm"


def is_wrapped(name: str) -> bool:
    return name.split(".")[-2] in LINEAR


def save_as_phi4mm(folder: Path) -> None:
    """Rewrites a saved Phi-3 in place."""
    generator = seeded("phi4mm")
    path = folder / "model.safetensors"
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in sorted(load_file(path).items()):
        if not is_wrapped(name):
            tensors[name] = tensor
            continue
        module = name.removesuffix(".weight")
        tensors[f"{module}.base_layer.weight"] = tensor
        n_outputs, n_inputs = tensor.shape
        for adapter, rank in RANKS.items():
            tensors[f"{module}.lora_A.{adapter}.weight"] = normal((rank, n_inputs), 0.2, generator).to(tensor.dtype)
            tensors[f"{module}.lora_B.{adapter}.weight"] = normal((n_outputs, rank), 0.2, generator).to(tensor.dtype)
    for tower in ("image_embed.img_projection.0", "audio_embed.audio_projection.speech.0"):
        for part, shape in (("weight", (6, 4)), ("bias", (6,))):
            tensors[f"model.embed_tokens_extend.{tower}.{part}"] = normal(shape, 0.2, generator).to(torch.bfloat16)
    save_file(tensors, path, metadata={"format": "pt"})
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    config |= {
        "architectures": ["Phi4MMForCausalLM"], "model_type": "phi4mm", "full_attn_mod": 1, "lm_head_bias": False,
        "embd_layer": {"embedding_cls": "image_audio"},
    }  # fmt: skip
    for adapter, rank in RANKS.items():
        config[f"{adapter}_lora"] = {"r": rank, "lora_alpha": 2 * rank, "dp": 0.0, "layer": "layers.*"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_phi4mm(folder: Path, options: dict[str, Any]) -> PreTrainedModel:
    """The base model, without an adapter."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}
    state = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if ".lora_" not in name and "embed_tokens_extend" not in name:
            state[name.replace(".base_layer.", ".")] = tensor
    return Phi3ForCausalLM.from_pretrained(None, config=Phi3Config(**config), state_dict=state, **options)
