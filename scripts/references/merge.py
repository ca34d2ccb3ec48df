"""What merge-lora must write: PEFT's merge_and_unload on every adapter, and the logits of PEFT unmerged.

A tied head is made a parameter of its own before PEFT merges: only then are the merged weights those that
PEFT computes with at run time. The logits come from the model as it is, tied, with the adapter unmerged.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, Phi3Config, PreTrainedModel

from .adapters import ADAPTERS, Adapter, lora, make_adapter
from .checkpoints import CHECKPOINTS, Checkpoint, load_checkpoint
from .common import normal, seeded, write_tensors
from .logits import forward

# Of the nine models' changed tensors every 13th element is kept, counted over the flattened tensor.
STRIDE = 13
# Kinds that no merged checkpoint can express.
UNMERGEABLE = {"trainable_tokens", "layer_replication", "alora", "ia3"}
OTHER_TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
IN_OTHER_TYPES = {"rslora", "bf16", "dora", "embedding", "bias_all", "lora_bias"}

TINY = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT2 = Checkpoint(
    "gpt2", "weights stored [in, out]; tied",
    GPT2Config(n_embd=24, n_layer=1, n_head=2, n_positions=32, **TINY), torch.float16,
)  # fmt: skip
PHI3 = Checkpoint(
    "phi3_fused", "fused q, k, v and gate, up; untied",
    Phi3Config(
        hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=False, max_position_embeddings=64, **TINY,
    ),
    torch.bfloat16,
)  # fmt: skip
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
CONV = ["c_attn", "c_proj", "c_fc"]
SMALL = {
    "gpt2": [
        Adapter("conv", "fan_in_fan_out for layers stored [in, out]", lora(4, 8, CONV, fan_in_fan_out=True)),
        Adapter("conv_dora", "the same with DoRA", lora(3, 8, CONV, fan_in_fan_out=True, use_dora=True)),
        Adapter("square", "r = n_embd, c_proj is square", lora(24, 8, ["c_proj"], fan_in_fan_out=True)),
    ],
    "phi3_fused": [
        Adapter("fused", "fused targets", lora(4, 8, FUSED)),
        Adapter("embedding_dora", "DoRA on the embedding and on q, k, v", lora(3, 6, ["embed_tokens", "qkv_proj"], use_dora=True)),
        Adapter("vision", "an adapter that lies inside the checkpoint", lora(6, 12, FUSED)),
        Adapter("speech", "another one", lora(4, 8, FUSED), torch.bfloat16),
    ],
}


NESTED = {"phi4mm", "qwen2_5_vl", "qwen3_vl", "gemma3_vision"}


def load_untied(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model in a type, its head a parameter of its own."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def merged_tensors(folder: Path, adapter: Path, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """The tensors that the adapter changes; bf16 is widened to f32."""
    before = load_untied(folder, dtype).state_dict()
    after = PeftModel.from_pretrained(load_untied(folder, dtype), adapter).merge_and_unload().state_dict()
    assert before.keys() == after.keys(), before.keys() ^ after.keys()
    changed = {name: tensor.to(dtype) for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed, f"{adapter}: nothing is merged"
    return {name: (t.float() if dtype is torch.bfloat16 else t).detach().numpy() for name, t in changed.items()}


@torch.no_grad()
def unmerged_logits(spec: Checkpoint, folder: Path, adapter: Path) -> np.ndarray:
    """f32 [7, vocab] of the model as PEFT runs it."""
    tokens = torch.randint(0, spec.config.vocab_size, (1, 7), generator=seeded("merge", spec.name))
    return forward(PeftModel.from_pretrained(load_checkpoint(folder), adapter).eval(), tokens)[0].numpy()


def add_case(tensors: dict[str, np.ndarray], folder: Path, adapter: Adapter, path: Path, stride: int) -> None:
    """CASE/TENSOR for one adapter, in f16 and maybe other types."""
    types = {"float16": torch.float16}
    if adapter.name in IN_OTHER_TYPES and folder.name in ("qwen2", "mistral"):
        types |= OTHER_TYPES
    for type_name, dtype in types.items():
        for name, values in merged_tensors(folder, path, dtype).items():
            kept = values.reshape(-1)[::stride] if stride > 1 else values
            tensors[f"{adapter.name}@{type_name}/{name}"] = kept


def fill_small(model: PreTrainedModel, name: str) -> None:
    generator = seeded("merge", name)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(normal(parameter.shape, 0.3, generator))


def make_small(spec: Checkpoint, root: Path) -> Path:
    """A checkpoint that is only for merging, with its adapters."""
    folder = root / spec.name
    model = AutoModelForCausalLM.from_config(spec.config, dtype=torch.float32)
    fill_small(model, spec.name)
    model.to(spec.dtype).save_pretrained(folder)
    for adapter in SMALL[spec.name]:
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        make_adapter(base, spec.name, adapter, folder / "adapters" / adapter.name)
    return folder


def make_inner_layout(phi3: Path, target: Path) -> None:
    """Phi-4-multimodal's layout: base weights as base_layer, the adapters' tensors beside them."""
    tensors = load_file(phi3 / "model.safetensors")
    for adapter in ("vision", "speech"):
        source = phi3 / "adapters" / adapter
        for key, tensor in load_file(source / "adapter_model.safetensors").items():
            module, part = key.removeprefix("base_model.model.").rsplit(".lora_", 1)
            tensors[f"{module}.lora_{part[0]}.{adapter}.weight"] = tensor.to(torch.bfloat16)
            if f"{module}.weight" in tensors:
                tensors[f"{module}.base_layer.weight"] = tensors.pop(f"{module}.weight")
        folder = target / f"{adapter}-lora"
        folder.mkdir(parents=True)
        shutil.copy(source / "adapter_config.json", folder)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((phi3 / "config.json").read_text())
    config |= {"vision_lora": {"r": 6, "lora_alpha": 12}, "speech_lora": {"r": 4, "lora_alpha": 8}}
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_merges(root: Path) -> None:
    """merge/MODEL.safetensors for the models of one kind of layer names, and merge/NAME/ for those that are only for merging."""
    target = root / "merge"
    shutil.rmtree(target, ignore_errors=True)
    for spec in CHECKPOINTS:
        # transformers gives the tensors of these other names than their files have.
        if spec.name in NESTED:
            continue
        folder = root / "models" / spec.name
        tensors: dict[str, np.ndarray] = {}
        for adapter in ADAPTERS[spec.name]:
            if adapter.name in UNMERGEABLE:
                continue
            path = folder / "adapters" / adapter.name
            add_case(tensors, folder, adapter, path, STRIDE)
            if adapter.refused or not adapter.has_logits:
                tensors[f"logits/{adapter.name}"] = unmerged_logits(spec, folder, path)
        tokens = torch.randint(0, spec.config.vocab_size, (1, 7), generator=seeded("merge", spec.name))
        tensors["tokens"] = tokens[0].numpy().astype(np.int32)
        write_tensors(target / f"{spec.name}.safetensors", tensors)
    for spec in (GPT2, PHI3):
        folder = make_small(spec, target)
        if spec is PHI3:
            make_inner_layout(folder, target / "phi4mm")
            # The adapters as the checkpoint holds them: rounded.
            for name in ("vision", "speech"):
                path = folder / "adapters" / name / "adapter_model.safetensors"
                save_file({key: t.to(torch.bfloat16) for key, t in load_file(path).items()}, path)
        tensors = {}
        for adapter in SMALL[spec.name]:
            add_case(tensors, folder, adapter, folder / "adapters" / adapter.name, 1)
        write_tensors(target / f"{spec.name}.safetensors", tensors)
