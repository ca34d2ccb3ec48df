"""PEFT adapters: the kinds that must work and the kinds that must be refused.

Every tensor is random; no lora_B is zero. base_model_name_or_path is the model's name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from .common import normal, seeded

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
LINEAR = ATTENTION + MLP


@dataclass(frozen=True)
class Adapter:
    """One adapter. `refused` names what stands in the way; None if the adapter must work."""

    name: str
    about: str
    options: dict[str, Any]
    dtype: torch.dtype = torch.float32
    refused: str | None = None
    edit: dict[str, Any] = field(default_factory=dict)
    tiny_b: bool = False
    kind: type[PeftConfig] = LoraConfig
    has_logits: bool = True


def lora(r: int, alpha: float, targets: list[str] | str = "all-linear", **more: Any) -> dict[str, Any]:
    """The options of a LoRA adapter."""
    return {"r": r, "lora_alpha": alpha, "target_modules": targets, **more}


def all_linear(r: int = 8, alpha: int = 16, dtype: torch.dtype = torch.float32) -> Adapter:
    return Adapter(f"all_r{r}", "every linear layer but the head", lora(r, alpha), dtype)


def attention() -> Adapter:
    return Adapter("attention_r4", "q, k, v, o; alpha / r = 1.5", lora(4, 6, ATTENTION))


def rslora() -> Adapter:
    return Adapter("rslora", "scale alpha / sqrt(r)", lora(8, 16, use_rslora=True))


def patterns(name: str = "patterns", **more: Any) -> Adapter:
    """Keys: a bare name, a longer path that wins over it, a regular expression, an anchored path."""
    ranks = {"^model.layers.0.mlp.up_proj": 3, "layers.1.self_attn.q_proj": 2, "q_proj": 4, r"layers\.\d+\.mlp\.down_proj": 12}
    alphas = {"k_proj": 5, "layers.0.self_attn.q_proj": 9, "mlp.(gate|up)_proj": 7}
    options = lora(8, 16, LINEAR, rank_pattern=dict(sorted(ranks.items())), alpha_pattern=dict(sorted(alphas.items())))
    return Adapter(name, "rank_pattern and alpha_pattern; the first matching key counts", options | more)


def square_kv(r: int) -> Adapter:
    return Adapter("square_kv", f"r = {r} = out_features of k and v", lora(r, r // 2, ["k_proj", "v_proj"]), torch.float16)


def half(name: str, dtype: torch.dtype, **more: Any) -> Adapter:
    return Adapter(name, f"adapter tensors are {name}; the scaled lora_B is rounded twice", lora(8, 11, **more), dtype)


def layers_subset() -> Adapter:
    return Adapter("layers_subset", "layers_to_transform [1]", lora(6, 12, LINEAR, layers_to_transform=[1]))


def refused(name: str, culprit: str, options: dict[str, Any], **more: Any) -> Adapter:
    return Adapter(name, f"to be refused: {culprit}", options, refused=culprit, **more)


def dora() -> Adapter:
    return refused("dora", "use_dora", lora(4, 8, ATTENTION, use_dora=True))


def embedding() -> Adapter:
    return refused("embedding", "embed_tokens", lora(4, 8, ["q_proj", "embed_tokens"]))


def lm_head() -> Adapter:
    return refused("lm_head", "lm_head", lora(4, 8, ["q_proj", "lm_head"]))


def modules_to_save() -> Adapter:
    return refused("modules_to_save", "modules_to_save", lora(4, 8, ["q_proj"], modules_to_save=["lm_head"]))


QWEN2 = [
    all_linear(), attention(), rslora(), patterns(), patterns("rslora_patterns", use_rslora=True), square_kv(32),
    Adapter(
        "square_hidden", "r = 64 = hidden size (k, down), but o has rank 4 by pattern and in_features 64",
        lora(64, 32, ["k_proj", "o_proj", "down_proj"], rank_pattern={"o_proj": 4}), torch.float16,
    ),
    half("bf16", torch.bfloat16), half("f16", torch.float16),
    Adapter("bf16_rslora", "bf16 tensors times an irrational scale", lora(8, 16, use_rslora=True), torch.bfloat16),
    layers_subset(),
    Adapter(
        "fan_in_fan_out", "the flag says true, the tensors are laid out as always", lora(8, 16, LINEAR),
        edit={"fan_in_fan_out": True},
    ),
    Adapter("mlp_r3", "gate, up, down with an odd rank", lora(3, 4, MLP)),
    Adapter("regex_targets", "target_modules is a regular expression", lora(5, 10, r".*\.(q_proj|up_proj)")),
    Adapter("tiny_values", "scaled lora_B lies in f16's subnormal range, lora_A is large", lora(8, 24, ATTENTION), tiny_b=True),
    dora(), embedding(),
    refused("bias_all", "bias", lora(4, 8, ["q_proj", "k_proj", "v_proj"], bias="all")),
    Adapter(
        "bias_lora_only", "bias says lora_only, no biases in the file: as without",
        lora(4, 8, ["q_proj", "k_proj", "v_proj"], bias="lora_only"), has_logits=False,
    ),
    refused("lora_bias", "lora_bias", lora(4, 8, ["q_proj"], lora_bias=True)),
    refused("lm_head_tied", "lm_head", lora(4, 8, ["q_proj", "lm_head"])),
    refused("trainable_tokens", "trainable_token_indices", lora(4, 8, ["q_proj"], trainable_token_indices=[3, 5])),
    refused("layer_replication", "layer_replication", lora(4, 8, ["q_proj"], layer_replication=[[0, 2], [1, 2]])),
    refused("alora", "alora_invocation_tokens", lora(4, 8, ["q_proj"], alora_invocation_tokens=[7, 8])),
    refused("ia3", "peft_type", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}, kind=IA3Config),
]  # fmt: skip

def fused(name: str, about: str, options: dict[str, Any], dtype: torch.dtype = torch.float16) -> Adapter:
    return Adapter(name, f"fused targets; {about}", options, dtype)


FUSED_ALL = fused("fused_all", "qkv_proj, o_proj, gate_up_proj, down_proj", lora(4, 8))
FUSED_RSLORA = fused("fused_rslora", "rsLoRA on qkv_proj", lora(5, 10, ["qkv_proj"], use_rslora=True))
FUSED_PATTERNS = fused(
    "fused_patterns", "each module with its rank", lora(4, 6, rank_pattern={"qkv_proj": 7, "gate_up_proj": 3}), torch.bfloat16
)


def backbone(name: str, options: dict[str, Any]) -> Adapter:
    """On the language model alone; PEFT names its modules model.language_model.layers."""
    targets = rf".*language_model.*\.({'|'.join(LINEAR)})"
    return Adapter(name, "the linear layers of the text backbone", options | {"target_modules": targets}, torch.float16)


ADAPTERS: dict[str, list[Adapter]] = {
    "qwen2": QWEN2,
    "qwen2_odd": [all_linear(5, 7), rslora(), square_kv(24), modules_to_save(), lm_head()],
    "qwen3": [all_linear(), attention(), patterns(), half("bf16", torch.bfloat16), dora()],
    "llama3": [all_linear(16, 32, torch.bfloat16), patterns(), half("f16", torch.float16), layers_subset(), lm_head()],
    "llama_mqa": [all_linear(), attention(), square_kv(16)],
    "llama_gqa": [all_linear(), patterns(), square_kv(30)],
    "llama_bias": [all_linear()],
    "mistral": [all_linear(), rslora(), half("bf16", torch.bfloat16), embedding()],
    "mistral_window": [all_linear(), attention()],
    "phi3": [FUSED_ALL, FUSED_RSLORA],
    "phi3_short": [FUSED_ALL, FUSED_PATTERNS],
    "phi3_long": [FUSED_ALL],
    "phi4mm": [FUSED_RSLORA],
    "qwen2_5_vl": [backbone("text_r4", lora(4, 8))],
    "qwen3_vl": [backbone("text_rslora", lora(3, 6, use_rslora=True))],
    "gemma3": [all_linear(6, 9, torch.bfloat16), attention()],
    "gemma3_vision": [backbone("text_r4", lora(4, 8))],
    "qwen3_moe": [
        Adapter("experts_r4", "every linear layer but the head: attention, router, experts", lora(4, 8), torch.float16),
        attention(),
        Adapter("down_r3", "rsLoRA on the down projections of the MLP and of the experts", lora(3, 6, ["down_proj"], use_rslora=True)),
    ],
    "qwen3_moe_step": [Adapter("experts_r2", "gate, up, down of all layers", lora(2, 4, MLP), torch.float16)],
}


def b_std(model: PeftModel, key: str) -> float:
    """Spread of lora_B for a delta about half as large as the base layer's output."""
    module = model.get_submodule(key.split(".lora_")[0])
    return 0.5 / (module.scaling["default"] * module.r["default"] ** 0.5)


def fill(model: PeftModel, spec: Adapter, generator: torch.Generator) -> None:
    """Overwrites everything the adapter would save, in the order of the names."""
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            if not parameter.requires_grad:
                continue
            if ".lora_A." in key:
                std = 1100.0 if spec.tiny_b else parameter.shape[-1] ** -0.5
                parameter.copy_(normal(parameter.shape, std, generator))
            elif ".lora_B." in key:
                std = 7e-6 if spec.tiny_b else b_std(model, key)
                parameter.copy_(normal(parameter.shape, std, generator))
            elif ".lora_embedding_" in key:
                parameter.copy_(normal(parameter.shape, 0.1, generator))
            else:
                parameter.add_(normal(parameter.shape, 0.1, generator))
            parameter.data = parameter.data.to(spec.dtype)


def tidy(folder: Path, model_name: str, edit: dict[str, Any]) -> None:
    """Drops the model card; sorts the lists that PEFT writes in a random order."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for key in ("target_modules", "feedforward_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    config |= {"base_model_name_or_path": model_name} | edit
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_adapter(base: PreTrainedModel, model_name: str, spec: Adapter, folder: Path) -> None:
    """Wraps the model, fills the adapter with random values and saves it."""
    config = spec.kind(task_type="CAUSAL_LM", **spec.options)
    model = get_peft_model(base, config)
    fill(model, spec, seeded("adapter", model_name, spec.name))
    model.save_pretrained(folder, save_embedding_layers=False)
    tidy(folder, model_name, spec.edit)
