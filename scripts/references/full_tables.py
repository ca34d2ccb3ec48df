"""What PEFT makes of a full `embed_tokens.weight` or `lm_head.weight` beside an adapter, without modules_to_save.

PEFT saves them with `save_embedding_layers`, and loads them into the base model (`load_state_dict` without strictness):
where the head is tied both change, and nothing says so. qwen2 of the references is tied, qwen2_odd is not.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from .checkpoints import load_checkpoint
from .common import normal, seeded, write_tensors
from .merge import STRIDE

PREFIX = "base_model.model."
TABLES = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight"}
# Model, its plain adapter, the table that is saved beside it, and whether it differs from the base's.
CASES = [
    ("qwen2", "mlp_r3", "embedding", False),
    ("qwen2", "mlp_r3", "embedding", True),
    ("qwen2", "mlp_r3", "head", True),
    ("qwen2_odd", "all_r5", "embedding", True),
    ("qwen2_odd", "all_r5", "head", True),
]


def make_full_tables(root: Path) -> None:
    """merge/full_tables/CASE/: the adapter; merge/full_tables.safetensors: CASE/TENSOR as merged in f16, every 13th
    element of both tables and of one projection, and CASE/tied: 1 where both tables are one afterwards.
    """
    target = root / "merge" / "full_tables"
    shutil.rmtree(target, ignore_errors=True)
    found: dict[str, np.ndarray] = {}
    for model_name, adapter_name, table, is_changed in CASES:
        case = f"{model_name}_{table}_{'changed' if is_changed else 'same'}"
        base = root / "models" / model_name
        folder = target / case
        shutil.copytree(base / "adapters" / adapter_name, folder)
        path = folder / "adapter_model.safetensors"
        model = load_checkpoint(base).to(torch.float16)
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        values = (embedding if table == "embedding" else head).detach().clone()
        if is_changed:
            values += normal(values.shape, 0.1, seeded("full_tables", case)).half()
        save_file(load_file(path) | {PREFIX + TABLES[table]: values}, path)

        merged = PeftModel.from_pretrained(load_checkpoint(base).to(torch.float16), folder).merge_and_unload()
        tables = {
            TABLES["embedding"]: merged.get_input_embeddings().weight,
            TABLES["head"]: merged.get_output_embeddings().weight,
            "model.layers.0.mlp.up_proj.weight": merged.get_submodule("model.layers.0.mlp.up_proj").weight,
        }
        for name, tensor in tables.items():
            found[f"{case}/{name}"] = tensor.detach().numpy().reshape(-1)[::STRIDE]
        one, other = (tables[name].data_ptr() for name in TABLES.values())
        found[f"{case}/tied"] = np.array([int(one == other)], np.int32)
    write_tensors(root / "merge" / "full_tables.safetensors", found)
