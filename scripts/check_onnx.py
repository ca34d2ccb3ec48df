#!/usr/bin/env python3
"""Holds exported graphs against programs that are not ours: onnx.checker, onnxruntime, transformers and PEFT.

For every reference model: export-llm, insert-lora, then onnxruntime's logits of model.onnx and of
lora_model.onnx with processed adapters as inputs, against the committed logits of transformers and PEFT
(tests/data/references/logits); in one step, in several with a cache, and in a batch of unequal rows.
For each layout of the workflow's exporters: insert-lora, then onnx's reference evaluator, with the plugins
in numpy, against the same logits. For every quantized reference checkpoint: export-llm and insert-lora, then
onnxruntime's logits against those of transformers with the same weights dequantized.

    scripts/check-onnx [PATH OF jetspool]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import load_file

from references.onnx import Session
from references.onnx_layouts import LAYOUTS
from references.onnx_plugins import PluginSession

REFERENCES = Path(__file__).resolve().parent.parent / "tests" / "data" / "references"
BOUNDS = {"f32": 1e-3, "f16": 3e-2}
SEQUENCES = ("short", "long")
# onnxruntime has no kernels for some of their operators' types.
WITHOUT_KERNELS = ("ct_mixed", "mixed", "nvfp4")


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


def wanted(logits: dict[str, np.ndarray], name: str, dtype: str) -> np.ndarray:
    """The reference with the same rounding of the matrices, where there is one."""
    rounded = logits.get(f"{name}@f16")
    return logits[name] if dtype == "f32" or rounded is None else rounded


def positions_of(logits: dict[str, np.ndarray], sequence: str) -> np.ndarray:
    tokens = logits[f"{sequence}.tokens"]
    return np.arange(len(tokens)) if sequence == "short" else logits["long.positions"]


def in_one_step(session: Session, tokens: np.ndarray, rows: np.ndarray, adapter: dict | None) -> np.ndarray:
    return session.step(tokens[None], session.empty_cache(1), [0], rows[None], adapter)[0][0]


def in_pieces(session: Session, tokens: np.ndarray, rows: np.ndarray, adapter: dict | None) -> np.ndarray:
    """With a cache: 5 tokens at a time."""
    cache, found = session.empty_cache(1), []
    for start in range(0, len(tokens), 5):
        piece = tokens[start : start + 5]
        logits, cache = session.step(piece[None], cache, [start], np.arange(len(piece))[None], adapter)
        found.append(logits[0])
    return np.concatenate(found)[rows]


def in_a_batch(session: Session, tokens: np.ndarray, rows: np.ndarray, adapter: dict | None) -> np.ndarray:
    """Beside a row that has fewer tokens behind it: its cache is filled up with what must not count."""
    half = len(tokens) // 2
    start, count = half - 2, len(tokens) - half
    _, long = session.step(tokens[None, :half], session.empty_cache(1), [0], np.zeros((1, 1)), adapter)
    _, short = session.step(tokens[None, :start], session.empty_cache(1), [0], np.zeros((1, 1)), adapter)
    filler = [np.full((1, 2, past.shape[2], half - start, past.shape[4]), 9, past.dtype) for past in short]
    cache = [np.concatenate([a, np.concatenate([b, c], axis=3)]) for a, b, c in zip(long, short, filler)]
    both = np.stack([tokens[half:], tokens[start : start + count]])
    logits, _ = session.step(both, cache, [half, start], np.tile(np.arange(count), (2, 1)), adapter)
    found = np.full((len(tokens), logits.shape[-1]), np.nan, np.float32)
    found[half:] = logits[0]
    late, early = found[rows], np.full_like(found, np.nan)
    early[start : start + count] = logits[1]
    early = early[rows]
    # Each position by the row that computed it last; those before both rows are not compared.
    return np.where(np.isnan(early), late, early)


WAYS = (in_one_step, in_pieces, in_a_batch)


def check_run(session: Session, logits: dict, name: str, dtype: str, adapter: dict | None) -> float:
    """Largest difference over both sequences and all ways."""
    largest = 0.0
    for sequence in SEQUENCES:
        tokens, rows = logits[f"{sequence}.tokens"], positions_of(logits, sequence)
        reference = wanted(logits, f"{sequence}.{name}", dtype)
        for way in WAYS:
            found = way(session, tokens, rows, adapter)
            compared = ~np.isnan(found).any(axis=1)
            assert compared.sum() >= len(rows) // 3, f"{way.__name__} compares too little"
            largest = max(largest, float(np.abs(found - reference)[compared].max()))
    return largest


def check_model(jetspool: str, folder: Path, dtype: str, scratch: Path) -> list[tuple[float, str]]:
    directory = scratch / f"{folder.name}-{dtype}"
    run(jetspool, "export-llm", "--model_dir", folder, "--output_dir", directory, "--dtype", dtype)
    run(jetspool, "insert-lora", "--onnx_dir", directory)
    logits = load_file(REFERENCES / "logits" / f"{folder.name}.safetensors")
    plain, dynamic = Session(directory), Session(directory, "lora_model.onnx")
    results = [(check_run(plain, logits, "base", dtype, None), f"{directory.name} base")]
    results.append((check_run(dynamic, logits, "base", dtype, None), f"{directory.name} without an adapter"))
    # Not all have logits: those of bf16 are of the workflow's numbers, not of what is rounded once.
    paths = (REFERENCES / "process" / folder.name).glob("*.safetensors")
    for path in sorted(path for path in paths if f"short.{path.stem}" in logits):
        largest = check_run(dynamic, logits, path.stem, dtype, load_file(path))
        results.append((largest, f"{directory.name} {path.stem}"))
    return results


def check_quantized(jetspool: str, folder: Path, scratch: Path) -> list[tuple[float, str]]:
    """A quantized checkpoint, whose weights stay as they are in the graph."""
    directory, processed = scratch / folder.name, scratch / f"{folder.name}-adapters"
    run(jetspool, "export-llm", "--model_dir", folder, "--output_dir", directory, "--dtype", "f32")
    run(jetspool, "insert-lora", "--onnx_dir", directory)
    logits = load_file(folder / "logits.safetensors")
    tokens, rows = logits["tokens"], np.arange(len(logits["tokens"]))
    try:
        session = Session(directory, "lora_model.onnx", is_exact=True)
    except Exception as error:  # onnxruntime has classes for its errors, but no common one that is public.
        # Four-bit floats are younger than onnxruntime's kernels; onnx.checker has passed.
        assert folder.name in WITHOUT_KERNELS and "NOT_IMPLEMENTED" in str(error), (folder.name, error)
        return []
    results = []
    for name in logits.keys() - {"tokens"}:
        adapter = {}
        if name != "base":
            run(jetspool, "process-lora", "--input_dir", folder / "adapters" / name, "--output_dir", processed / name)
            adapter = load_file(processed / name / "processed_adapter_model.safetensors")
        largest = float(np.abs(in_one_step(session, tokens, rows, adapter) - logits[name]).max())
        results.append((largest, f"{folder.name} {name}"))
    return results


def check_layout(jetspool: str, source: Path, scratch: Path) -> list[tuple[float, str]]:
    directory = shutil.copytree(source, scratch / source.name)
    run(jetspool, "insert-lora", "--onnx_dir", directory)
    is_quantized = (source / "logits.safetensors").exists()
    # The older exporter writes an int4 node without a domain, which onnx.checker does not take.
    if source.name != "older_int4":
        onnx.checker.check_model(str(directory / "lora_model.onnx"))
        onnx.checker.check_model(onnx.load(directory / "lora_model.onnx"), full_check=True)
    plain, dynamic = PluginSession(directory, "model.onnx"), PluginSession(directory, "lora_model.onnx")
    if is_quantized:
        logits, adapter = (load_file(source / name) for name in ("logits.safetensors", "processed_adapter_model.safetensors"))
        cases = [(plain, "base", {}, logits["base"]), (dynamic, "adapter", adapter, logits["adapter"])]
        tokens, rows = logits["tokens"], np.arange(len(logits["tokens"]))
    else:
        model = next(layout.model for layout in LAYOUTS if layout.name == source.name)
        name = "fused_all" if model.startswith("phi3") else "all_r8"
        logits = load_file(REFERENCES / "logits" / f"{model}.safetensors")
        tokens, rows = logits["long.tokens"], logits["long.positions"]
        cases = [(plain, "base", {}, wanted(logits, "long.base", "f16"))]
        adapter = load_file(REFERENCES / "process" / model / f"{name}.safetensors")
        cases.append((dynamic, name, adapter, wanted(logits, f"long.{name}", "f16")))
    results = []
    for session, name, adapter, reference in cases:
        found = session.logits(tokens, rows, adapter)
        results.append((float(np.abs(found - reference).max()), f"{source.name} {name}"))
    return results


def report(title: str, results: list[tuple[float, str]], bound: float) -> bool:
    """Says what was found, and whether all of it is within the bound."""
    results.sort(reverse=True)
    shown = ", ".join(f"{name} {largest:.1e}" for largest, name in results[:4])
    print(f"{title}: {len(results)} runs, bound {bound:.0e}, largest differences: {shown}")
    return results[0][0] <= bound


def main() -> None:
    jetspool = sys.argv[1] if len(sys.argv) > 1 else "target/release/jetspool"
    good = True
    for dtype, bound in BOUNDS.items():
        results = []
        with tempfile.TemporaryDirectory() as scratch:
            for folder in sorted((REFERENCES / "models").iterdir()):
                results += check_model(jetspool, folder, dtype, Path(scratch))
        good &= report(dtype, results, bound)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for source in sorted((REFERENCES / "onnx").iterdir()):
            results += check_layout(jetspool, source, Path(scratch))
    good &= report("layouts", results, BOUNDS["f32"])
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for source in sorted((REFERENCES / "quantized").iterdir()):
            results += check_quantized(jetspool, source, Path(scratch))
    good &= report("quantized", results, BOUNDS["f32"])
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
