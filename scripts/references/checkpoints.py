"""Tiny random checkpoints in the layout of Hugging Face.

The weights are wide enough for logits of order 10 and for attention that looks at something;
each family keeps what makes it different (biases, q/k norms, scaled RoPE, windows, odd sizes).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Phi3Config,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3VLConfig,
)

from .common import normal, seeded
from .phi4mm import is_phi4mm, load_phi4mm, save_as_phi4mm

# Standard deviation of a weight times sqrt(its input width).
GAINS = {
    "q_proj": 1.5, "k_proj": 1.5, "v_proj": 1.2, "o_proj": 1.2,
    "gate_proj": 1.2, "up_proj": 1.2, "down_proj": 2.5, "lm_head": 3.0,
    "qkv_proj": 1.4, "gate_up_proj": 1.2, "gate": 2.0,
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """One model: its configuration and how it is saved."""

    name: str
    about: str
    config: PretrainedConfig
    dtype: torch.dtype
    short_len: int = 7
    # Of models that compute short texts in another way: the first tokens of the short prompt, alone.
    brief_len: int = 0
    max_shard_size: str = "5GB"
    edit_config: Callable[[dict[str, Any]], None] | None = field(default=None)
    edit_folder: Callable[[Path], None] | None = field(default=None)


def sizes(hidden: int, inter: int, layers: int, heads: int, kv: int, vocab: int) -> dict[str, int]:
    """The size fields that all families share."""
    return {
        "hidden_size": hidden, "intermediate_size": inter, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab,
        "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def like_older_transformers(config: dict[str, Any]) -> None:
    """Older checkpoints say torch_dtype and leave head_dim out."""
    del config["head_dim"]
    config["torch_dtype"] = config.pop("dtype")


def without_head_dim(config: dict[str, Any]) -> None:
    """head_dim is then hidden_size / num_attention_heads."""
    del config["head_dim"]


def older_name_of_longrope(config: dict[str, Any]) -> None:
    """The first Phi-3 checkpoints called it su."""
    config["rope_scaling"]["type"] = "su"


def longrope(n_pairs: int) -> dict[str, Any]:
    """Factors that grow along the pairs, the long ones faster."""
    return {
        "type": "longrope",
        "short_factor": [round(1.0 + 0.07 * i, 4) for i in range(n_pairs)],
        "long_factor": [round(1.1 + 0.9 * i * i, 4) for i in range(n_pairs)],
    }


def phi3(kv: int, vocab: int, **more: Any) -> Phi3Config:
    """3 heads of 16."""
    return Phi3Config(**sizes(48, 64, 2, 3, kv, vocab) | {"pad_token_id": 0} | more)


def gemma3(*layers: str, **more: Any) -> dict[str, Any]:
    """2 heads of 24 with hidden/heads 32; scores are divided by the root of 20."""
    return {
        "head_dim": 24, "query_pre_attn_scalar": 20, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window": 8, "tie_word_embeddings": True,
        "layer_types": [f"{kind}_attention" for kind in layers], "pad_token_id": 0, "bos_token_id": 2,
    } | more  # fmt: skip


def in_the_older_spelling(config: dict[str, Any]) -> None:
    """Gemma's first checkpoints leave most of the text to the class, and say every how many layers sees all."""
    text = config["text_config"]
    assert text.pop("layer_types") == ["sliding_attention", "full_attention"]
    text |= {"sliding_window_pattern": 2}
    for key in ("_sliding_window_pattern", "rms_norm_eps", "rope_theta", "rope_local_base_freq", "tie_word_embeddings"):
        text.pop(key, None)


LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

CHECKPOINTS = [
    Checkpoint(
        "qwen2", "q/k/v biases, tied head, bf16; takes tokenizers/qwen2",
        Qwen2Config(
            **sizes(64, 160, 2, 4, 2, 608) | {"bos_token_id": 596, "eos_token_id": 598},
            tie_word_embeddings=True, rope_theta=1e6, rms_norm_eps=1e-6,
        ),
        torch.bfloat16,
    ),
    Checkpoint(
        "qwen2_odd", "odd sizes (head_dim 12), untied, f32",
        Qwen2Config(**sizes(72, 100, 2, 6, 2, 263), tie_word_embeddings=False, rope_theta=1e6, rms_norm_eps=1e-6),
        torch.float32,
    ),
    Checkpoint(
        "qwen3", "q_norm and k_norm, head_dim 32 is not hidden/heads (16), tied, f16",
        Qwen3Config(**sizes(64, 128, 2, 4, 2, 320), head_dim=32, tie_word_embeddings=True, rope_theta=1e6),
        torch.float16,
    ),
    Checkpoint(
        "llama3", "llama3 RoPE scaling, untied, bf16, sharded, eos list; takes tokenizers/llama3",
        LlamaConfig(
            **sizes(128, 128, 2, 8, 2, 608) | {"bos_token_id": 596, "eos_token_id": [597, 600]},
            rope_theta=500000.0, rope_scaling=LLAMA3_ROPE, tie_word_embeddings=False, rms_norm_eps=1e-5,
        ),
        torch.bfloat16, max_shard_size="200KB", edit_config=without_head_dim,
    ),
    Checkpoint(
        "llama_mqa", "one k/v head, plain RoPE, tied, f32, config in the older spelling",
        LlamaConfig(**sizes(64, 112, 2, 4, 1, 300), rope_theta=10000.0, attention_bias=False, tie_word_embeddings=True),
        torch.float32, edit_config=like_older_transformers,
    ),
    Checkpoint(
        "llama_gqa", "9 heads of 10 on 3 k/v heads, tied, bf16",
        LlamaConfig(**sizes(90, 140, 2, 9, 3, 331), rope_theta=10000.0, tie_word_embeddings=True, rms_norm_eps=1e-5),
        torch.bfloat16,
    ),
    Checkpoint(
        "llama_bias", "attention_bias and mlp_bias (q, k, v, o, gate, up, down have biases), untied, f16",
        LlamaConfig(**sizes(64, 96, 2, 4, 2, 280), attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
        torch.float16,
    ),
    Checkpoint(
        "mistral", "head_dim 24 is not hidden/heads (16), no window, untied, f16; takes tokenizers/mistral",
        MistralConfig(**sizes(64, 144, 2, 4, 2, 608), head_dim=24, sliding_window=None, tie_word_embeddings=False),
        torch.float16,
    ),
    Checkpoint(
        "mistral_window", "sliding window of 16 tokens (the own one counts), one k/v head per head, untied, f32",
        MistralConfig(**sizes(64, 96, 2, 4, 4, 257), sliding_window=16, tie_word_embeddings=False),
        torch.float32, short_len=20,
    ),
    Checkpoint(
        "phi3", "fused qkv_proj and gate_up_proj, k/v heads like heads, window of 16, untied, f16",
        phi3(3, 163, sliding_window=16, tie_word_embeddings=False), torch.float16, short_len=20,
    ),
    Checkpoint(
        "phi3_short", "longrope with the short factors for up to 2048 positions, 12 of 16 rotated, tied, bf16",
        phi3(
            1, 170, rope_scaling=longrope(6), partial_rotary_factor=0.75, tie_word_embeddings=True,
            max_position_embeddings=8192, original_max_position_embeddings=2048,
        ),
        torch.bfloat16,
    ),
    Checkpoint(
        "phi3_long", "longrope (called su) with the long factors beyond 16 positions, 8 of 16 rotated, untied, f32",
        phi3(
            1, 150, rope_scaling=longrope(4), partial_rotary_factor=0.5, tie_word_embeddings=False,
            max_position_embeddings=64, original_max_position_embeddings=16,
        ),
        torch.float32, short_len=20, brief_len=12, edit_config=older_name_of_longrope,
    ),
    Checkpoint(
        "phi4mm", "layout of Phi-4-multimodal's own code: base_layer, vision and speech adapters, towers; tied, bf16",
        phi3(
            1, 156, rope_scaling=longrope(6), partial_rotary_factor=0.75, tie_word_embeddings=True,
            max_position_embeddings=8192, original_max_position_embeddings=2048,
        ),
        torch.bfloat16, edit_folder=save_as_phi4mm,
    ),
    Checkpoint(
        "qwen2_5_vl", "text backbone of Qwen2.5-VL under the older names, untied, f16",
        Qwen2_5_VLConfig(
            text_config=sizes(48, 64, 2, 3, 1, 161) | {
                "tie_word_embeddings": False, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
                "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            },
            vision_config={
                "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 48,
                "patch_size": 2, "fullatt_block_indexes": [0],
            },
            image_token_id=150, video_token_id=151, vision_start_token_id=152, vision_end_token_id=153,
        ),
        torch.float16,
    ),
    Checkpoint(
        "qwen3_vl", "text backbone of Qwen3-VL, interleaved mrope, q_norm and k_norm, tied, bf16",
        Qwen3VLConfig(
            text_config=sizes(48, 64, 2, 2, 1, 158) | {
                "tie_word_embeddings": True, "rope_theta": 5e6, "head_dim": 16,
                "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True},
            },
            vision_config={
                "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 48,
                "patch_size": 2, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
            },
            image_token_id=150, video_token_id=151, vision_start_token_id=152, vision_end_token_id=153,
            tie_word_embeddings=True,
        ),
        torch.bfloat16,
    ),
    Checkpoint(
        "gemma3", "windows of 8 and another theta in three of four layers, linear RoPE scaling, f16; takes tokenizers/gemma",
        Gemma3TextConfig(
            **sizes(64, 64, 4, 2, 1, 608) | gemma3("sliding", "sliding", "full", "sliding", eos_token_id=[1, 6]),
        ),
        torch.float16, short_len=12,
    ),
    Checkpoint(
        "gemma3_vision", "text backbone of Gemma 3 with images, config in the older spelling, bf16",
        Gemma3Config(
            text_config=sizes(48, 64, 2, 2, 2, 170) | gemma3("sliding", "full", eos_token_id=1),
            vision_config={
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 8, "patch_size": 4,
            },
            mm_tokens_per_image=4, image_token_index=150, boi_token_index=151, eoi_token_index=152,
        ),
        torch.bfloat16, short_len=12, edit_config=in_the_older_spelling,
    ),
    Checkpoint(
        "qwen3_moe", "2 of 6 experts with weights that add to 1, the first layer has a plain MLP, untied, f16",
        Qwen3MoeConfig(
            **sizes(48, 72, 3, 4, 2, 181), head_dim=16, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=40,
            norm_topk_prob=True, mlp_only_layers=[0], tie_word_embeddings=False, rope_theta=1e6,
        ),
        torch.float16,
    ),
    Checkpoint(
        "qwen3_moe_step", "3 of 8 experts with weights as the softmax gives them, in every second layer, tied, f32",
        Qwen3MoeConfig(
            **sizes(36, 48, 2, 3, 1, 150), num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24,
            norm_topk_prob=False, decoder_sparse_step=2, tie_word_embeddings=True,
        ),
        torch.float32,
    ),
]  # fmt: skip


def weight(name: str, shape: torch.Size, tied: bool, generator: torch.Generator) -> torch.Tensor:
    """Random values fit for the tensor's role."""
    if "norm" in name:
        return 1.0 + normal(shape, 0.25, generator)
    if name.endswith(".bias"):
        return normal(shape, 0.3, generator)
    if "embed_tokens" in name:
        return normal(shape, 3.2 / shape[-1] ** 0.5 if tied else 1.0, generator)
    role = name.split(".")[-2]
    return normal(shape, GAINS.get(role, 1.0) / shape[-1] ** 0.5, generator)


def fill(model: PreTrainedModel, name: str) -> None:
    """Overwrites every parameter, in the order of the names."""
    generator = seeded("checkpoint", name)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            tied = model.config.get_text_config().tie_word_embeddings
            value = weight(key, parameter.shape, tied, generator)
            if "norm" in key and type(model).__name__.startswith("Gemma3") and "vision" not in key:
                # It multiplies by 1 more than its norms hold. Those of outputs are large, for the embedding is too:
                # the next token would always be the last one.
                value += 2.0 if ".post_" in key else -1.0
            parameter.copy_(value)


def make_checkpoint(spec: Checkpoint, folder: Path) -> None:
    """Writes config.json, generation_config.json and the weights."""
    model = auto_class(spec.config).from_config(spec.config, dtype=torch.float32)
    fill(model, spec.name)
    model.to(spec.dtype).save_pretrained(folder, max_shard_size=spec.max_shard_size)
    if spec.edit_config:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        spec.edit_config(config)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if spec.edit_folder:
        spec.edit_folder(folder)


def auto_class(config: PretrainedConfig) -> type:
    """What makes a model of such a configuration."""
    return AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM


def load_checkpoint(folder: Path) -> PreTrainedModel:
    """The model as the references see it: f32, eager attention."""
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    if is_phi4mm(folder):
        return load_phi4mm(folder, options).eval()
    kind = auto_class(AutoConfig.from_pretrained(folder))
    return kind.from_pretrained(folder, **options).eval()
