#!/usr/bin/env python3
"""Writes the reference fixtures under tests/data/references.

The numbers come from programs that are not ours: transformers and PEFT (logits, greedy tokens),
tokenizers (ids), Jinja through transformers (chat templates). Everything is made here from fixed
seeds; nothing is downloaded. Two runs on one machine write the same bytes.

    scripts/python-env                                  # once
    .venv/bin/python scripts/make_references.py         # all
    .venv/bin/python scripts/make_references.py --only qwen2

    scripts/python-env published                        # for checkpoints that other libraries pack
    .venv-published/bin/python scripts/make_references.py --only published
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from transformers.utils import logging

from references.adapters import ADAPTERS, make_adapter
from references.chat import make_templates
from references.checkpoints import CHECKPOINTS, Checkpoint, load_checkpoint, make_checkpoint
from references.combined import make_combined
from references.common import write_json, write_tensors
from references.full_tables import make_full_tables
from references.jinja_features import make_jinja_features
from references.logits import make_logits
from references.merge import make_merges
from references.onnx_layouts import make_onnx
from references.process import processed_adapter, scaled_once
from references.processed_chat import make_processed_templates
from references.quantized import QUANTIZED, make_quantized
from references.ropes import make_ropes
from references.template_places import make_template_places
from references.tokenizing import make_tokenizers
from references.tools import make_tool_templates

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "references"


def make_model(spec: Checkpoint, root: Path) -> None:
    """One checkpoint with its adapters, processed adapters, logits and greedy tokens."""
    folder = root / "models" / spec.name
    for part in ("models", "process"):
        shutil.rmtree(root / part / spec.name, ignore_errors=True)
    make_checkpoint(spec, folder)
    processed = {}
    for adapter in ADAPTERS[spec.name]:
        target = folder / "adapters" / adapter.name
        make_adapter(load_checkpoint(folder), spec.name, adapter, target)
        if adapter.refused is None:
            tensors = processed_adapter(target)
            write_tensors(root / "process" / spec.name / f"{adapter.name}.safetensors", tensors)
            once = processed_adapter(target, scaled_once)
            if any(not np.array_equal(once[name], tensors[name]) for name in tensors):
                write_tensors(root / "process" / spec.name / f"{adapter.name}.once.safetensors", once)
            if adapter.has_logits:
                processed[adapter.name] = tensors
    make_logits(spec, root, processed)


def make_published(root: Path) -> None:
    """Needs libraries of its own: scripts/requirements-published.txt."""
    from references.published import PUBLISHED

    make_quantized(root, PUBLISHED)


def write_index(root: Path) -> None:
    """index.json: every model, every adapter, good or to be refused."""
    models = {}
    for spec in CHECKPOINTS:
        adapters = {
            a.name: {"about": a.about, "refused": a.refused} | ({} if a.has_logits else {"logits": False})
            for a in ADAPTERS[spec.name]
        }
        models[spec.name] = {"about": spec.about, "adapters": adapters}
    write_json(root / "index.json", {"models": models})


def jobs() -> dict[str, Callable[[Path], None]]:
    """What can be made, by name."""
    result: dict[str, Callable[[Path], None]] = {}
    for spec in CHECKPOINTS:
        result[spec.name] = partial(make_model, spec)
    others = {"tokenizers": make_tokenizers, "templates": make_templates, "processed_templates": make_processed_templates}
    others |= {"tool_templates": make_tool_templates, "template_places": make_template_places}
    others |= {"jinja_features": make_jinja_features, "combined": make_combined}
    others |= {"onnx": make_onnx, "quantized": partial(make_quantized, specs=QUANTIZED), "merge": make_merges}
    others |= {"published": make_published, "ropes": make_ropes, "full_tables": make_full_tables}
    return result | others


def main() -> None:
    todo = jobs()
    parser = argparse.ArgumentParser(description="Writes the reference fixtures.")
    parser.add_argument("--only", choices=sorted(todo), metavar="NAME", help=f"one of: {', '.join(todo)}")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="default: tests/data/references")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.set_verbosity_error()
    # Its libraries are not among scripts/requirements.txt.
    usual = [name for name in todo if name != "published"]
    for name in [args.only] if args.only else usual:
        print(name, flush=True)
        todo[name](args.out)
    write_index(args.out)


if __name__ == "__main__":
    main()
