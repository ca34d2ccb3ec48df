"""Several adapters at once: logits and greedy ids of PEFT's add_weighted_adapter with combination_type "cat".

Each adapter has the f16 factors of its processed file and a scale of 1, as in logits.py; the weights are those of a request.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from .checkpoints import CHECKPOINTS, Checkpoint, load_checkpoint
from .common import write_json, write_tensors
from .logits import MIN_GAP, Runs, forward, greedy, round_matrices_to_f16, set_factors
from .process import processed_adapter

# (adapter, weight) of each run. No first adapter is rsLoRA: the new adapter would be one too, and scaled once more.
COMBINED: dict[str, dict[str, list[tuple[str, float]]]] = {
    "llama_mqa": {
        "two": [("all_r8", 0.7), ("attention_r4", 0.4)],
        "taken_away": [("attention_r4", -0.5), ("all_r8", 1.25)],
        "twice": [("all_r8", 0.5), ("attention_r4", 1.0), ("all_r8", 0.25)],
    },
    "phi3_short": {"fused": [("fused_all", 0.7), ("fused_patterns", 0.4)]},
    "qwen3_moe": {"experts": [("experts_r4", 0.7), ("down_r3", -0.4), ("attention_r4", 1.5)]},
}


def load_combined(model_dir: Path, uses: list[tuple[str, float]]) -> PeftModel:
    """The checkpoint with all of them as one adapter."""
    names = list(dict.fromkeys(name for name, _ in uses))
    folders = {name: model_dir / "adapters" / name for name in names}
    model = PeftModel.from_pretrained(load_checkpoint(model_dir), folders[names[0]], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(folders[name], adapter_name=name)
    for name in names:
        set_factors(model, name, processed_adapter(folders[name]))
    model.add_weighted_adapter([name for name, _ in uses], [weight for _, weight in uses], "combined", "cat")
    model.set_adapter("combined")
    return model.eval()


def logits_of(runs: Runs, tokens: torch.Tensor, suffix: str = "") -> dict[str, np.ndarray]:
    """f32 logits [n_tokens, vocab] of each run."""
    return {f"{name}{suffix}": forward(model, tokens)[0].numpy() for name, model in runs.models.items()}


def make_model(spec: Checkpoint, root: Path) -> None:
    """combined/NAME.safetensors and combined/NAME.json."""
    asked = COMBINED[spec.name]
    runs = Runs(spec, {name: load_combined(root / "models" / spec.name, uses) for name, uses in asked.items()})
    prompt = runs.short_prompt()
    results = {}
    for name, model in runs.models.items():
        ids, gaps = greedy(model, prompt)
        assert float(gaps.min()) >= MIN_GAP, f"{spec.name} {name}: a greedy choice is a near tie"
        adapters = [{"name": adapter, "scale": weight} for adapter, weight in asked[name]]
        results[name] = {"adapters": adapters, "ids": ids[0].tolist()}
    tensors = {"tokens": prompt[0].numpy().astype(np.int32)} | logits_of(runs, prompt)
    if any([round_matrices_to_f16(model) for model in runs.models.values()]):
        tensors |= logits_of(runs, prompt, suffix="@f16")
    write_tensors(root / "combined" / f"{spec.name}.safetensors", tensors)
    write_json(root / "combined" / f"{spec.name}.json", {"runs": results})


def make_combined(root: Path) -> None:
    """Of the checkpoints and adapters that are there."""
    for spec in CHECKPOINTS:
        if spec.name in COMBINED:
            make_model(spec, root)
