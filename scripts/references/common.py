"""What every part shares: fixed seeds and writers whose bytes do not change between runs."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

# A raw line feed never stands inside a JSON string, so this matches lists only.
NUMBER_LIST = re.compile(r"\[\n[\s\d,.eE+-]*\]")


def seeded(*words: str) -> torch.Generator:
    """A random generator whose seed depends on the words only."""
    return torch.Generator().manual_seed(zlib.crc32("/".join(words).encode()))


def normal(shape: torch.Size | tuple[int, ...], std: float, generator: torch.Generator) -> torch.Tensor:
    """f32 normal values with mean 0."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32) * std


def write_json(path: Path, value: Any) -> None:
    """Indented ASCII JSON; a list of numbers stays on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=True)
    text = NUMBER_LIST.sub(lambda match: re.sub(r"\s+", "", match.group()).replace(",", ", "), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="ascii")


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file without metadata, names sorted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, path)
