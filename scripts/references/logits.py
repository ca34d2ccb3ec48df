"""Logits and greedy continuations from transformers in f32, with adapters through PEFT.

An adapter runs with the f16 factors of its processed file and a scale of 1, so that the numbers are
those a runtime must give that reads the processed file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from .checkpoints import Checkpoint, load_checkpoint
from .common import seeded, write_json, write_tensors

LONG_LEN = 48
GREEDY_LEN = 24
N_CANDIDATES = 32
MIN_GAP = 1e-3
N_ROUTES = 512


def load_with_adapter(model_dir: Path, adapter_dir: Path, processed: dict[str, np.ndarray]) -> PeftModel:
    """The checkpoint with an adapter whose factors are the processed ones."""
    return attach_adapter(load_checkpoint(model_dir), adapter_dir, processed)


def attach_adapter(base: PreTrainedModel, adapter_dir: Path, processed: dict[str, np.ndarray]) -> PeftModel:
    """The model with an adapter whose factors are the processed ones."""
    model = PeftModel.from_pretrained(base, adapter_dir).eval()
    set_factors(model, "default", processed)
    return model


def set_factors(model: PeftModel, adapter: str, processed: dict[str, np.ndarray]) -> None:
    """Gives one of the model's adapters the processed factors, and a scale of 1."""
    unused = set(processed)
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer) or adapter not in module.lora_A:
            continue
        name = path.removeprefix("base_model.model.")
        for part, layers in (("A", module.lora_A), ("B", module.lora_B)):
            key = f"{name}.lora_{part}.weight"
            layers[adapter].weight.data = torch.from_numpy(processed[key].T.astype(np.float32))
            unused.remove(key)
        module.scaling[adapter] = 1.0
    assert not unused, f"no module for {sorted(unused)}"


@torch.no_grad()
def forward(model: PreTrainedModel | PeftModel, tokens: torch.Tensor) -> torch.Tensor:
    """f32 logits [n_sequences, n_tokens, vocab] of tokens [n_sequences, n_tokens]."""
    return model(input_ids=tokens, use_cache=False).logits.float()


@torch.no_grad()
def routing_margin(model: PreTrainedModel | PeftModel, tokens: torch.Tensor) -> torch.Tensor:
    """[n_sequences]: the smallest distance between the router logits of the last chosen expert and the next one."""
    n_used = model.config.num_experts_per_tok
    routers = model(input_ids=tokens, use_cache=False, output_router_logits=True).router_logits
    best = torch.stack(routers).topk(n_used + 1, dim=-1).values
    margins = (best[..., n_used - 1] - best[..., n_used]).reshape(len(routers), *tokens.shape)
    return margins.amin(dim=(0, 2))


def greedy(model: PreTrainedModel | PeftModel, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and top1-top2 gaps [n_prompts, GREEDY_LEN]; the end token does not stop."""
    tokens, gaps = prompts, []
    for _ in range(GREEDY_LEN):
        best = forward(model, tokens)[:, -1].topk(2)
        tokens = torch.cat([tokens, best.indices[:, :1]], dim=1)
        gaps.append(best.values[:, 0] - best.values[:, 1])
    return tokens[:, prompts.shape[1] :], torch.stack(gaps, dim=1)


@dataclass
class Runs:
    """The runs of one model: "base" and each good adapter."""

    spec: Checkpoint
    models: dict[str, PreTrainedModel | PeftModel]

    def prompt(self, kind: str, count: int, length: int) -> torch.Tensor:
        """Random ids [count, length]."""
        vocab = self.spec.config.get_text_config().vocab_size
        return torch.randint(0, vocab, (count, length), generator=seeded("prompt", self.spec.name, kind))

    def has_experts(self) -> bool:
        return hasattr(self.spec.config, "num_experts")

    def clear_routes(self, prompts: torch.Tensor) -> torch.Tensor:
        """The half of the prompts whose choices of experts are farthest from ties, over all runs: rounding must not
        send a token through another expert."""
        margins = torch.stack([routing_margin(model, prompts) for model in self.models.values()]).amin(dim=0)
        return prompts[margins.argsort(descending=True)[: len(prompts) // 2]]

    def long_prompt(self) -> torch.Tensor:
        """Random ids [1, LONG_LEN]; where there are experts, the candidate with the clearest routes."""
        if not self.has_experts():
            return self.prompt("long", 1, LONG_LEN)
        candidates = self.prompt("long", N_ROUTES, LONG_LEN)
        while len(candidates) > 1:
            candidates = self.clear_routes(candidates)
        return candidates

    def short_prompt(self) -> torch.Tensor:
        """The candidate [1, n] whose greedy choices are farthest from ties over all runs."""
        prompts = self.prompt("short", N_CANDIDATES, self.spec.short_len)
        if self.has_experts():
            prompts = self.clear_routes(prompts)
        smallest = torch.stack([greedy(model, prompts)[1].amin(dim=1) for model in self.models.values()]).amin(dim=0)
        best = int(smallest.argmax())
        return prompts[best : best + 1]


def logits_of(runs: Runs, short: torch.Tensor, long: torch.Tensor, suffix: str = "") -> dict[str, np.ndarray]:
    """All positions of the short prompt; every 7th and the last 8 of the long one."""
    positions = [i for i in range(LONG_LEN) if i % 7 == 0 or i >= LONG_LEN - 8]
    tensors = {
        "short.tokens": short[0].numpy().astype(np.int32),
        "long.tokens": long[0].numpy().astype(np.int32),
        "long.positions": np.array(positions, dtype=np.int32),
    }
    for name, model in runs.models.items():
        tensors[f"short.{name}{suffix}"] = forward(model, short)[0].numpy()
        tensors[f"long.{name}{suffix}"] = forward(model, long)[0, positions].numpy()
    return tensors


@torch.no_grad()
def round_matrices_to_f16(model: PreTrainedModel | PeftModel) -> bool:
    """Rounds the base model's matrices in place, as an f16 engine holds them; tells if one changed."""
    changed = False
    for name, weight in model.named_parameters():
        if weight.ndim >= 2 and "lora_" not in name:
            rounded = weight.half().float()
            changed |= not torch.equal(rounded, weight)
            weight.copy_(rounded)
    return changed


def write_greedy(runs: Runs, short: torch.Tensor, path: Path) -> None:
    """The ids after the short prompt, and how clear each choice was."""
    results, smallest = {}, float("inf")
    for name, model in runs.models.items():
        ids, gaps = greedy(model, short)
        smallest = min(smallest, float(gaps.min()))
        results[name] = {"ids": ids[0].tolist(), "gaps": [round(gap, 4) for gap in gaps[0].tolist()]}
    assert smallest >= MIN_GAP, f"{runs.spec.name}: a greedy choice is a near tie ({smallest}); change the seed"
    write_json(path, {"prompt": short[0].tolist(), "smallest_gap": round(smallest, 5), "runs": results})


def make_logits(spec: Checkpoint, root: Path, processed: dict[str, dict[str, np.ndarray]]) -> None:
    """logits/NAME.safetensors and greedy/NAME.json."""
    folder = root / "models" / spec.name
    models: dict[str, PreTrainedModel | PeftModel] = {"base": load_checkpoint(folder)}
    for name, tensors in processed.items():
        models[name] = load_with_adapter(folder, folder / "adapters" / name, tensors)
    runs = Runs(spec, models)
    short = runs.short_prompt()
    long = runs.long_prompt()
    tensors = logits_of(runs, short, long)
    if spec.brief_len:
        tensors["brief.base"] = forward(models["base"], short[:, : spec.brief_len])[0].numpy()
    write_greedy(runs, short, root / "greedy" / f"{spec.name}.json")
    if any([round_matrices_to_f16(model) for model in models.values()]):
        tensors |= logits_of(runs, short, long, suffix="@f16")
    write_tensors(root / "logits" / f"{spec.name}.safetensors", tensors)
