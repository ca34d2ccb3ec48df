#!/usr/bin/env python3
"""Holds checkpoints of quantize-llm against decoders of the documented layout and against transformers.

For the demo model and each method: every tensor has the type and shape of the layout, the decoded weights
are as close to the original ones as the method allows, and transformers' perplexity with the decoded weights
equals the one that was reported.

    scripts/check-quantized [PATH OF jetspool] [--table]

With --table it prints the table of docs/quantization.md instead of single lines.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

REPO = Path(__file__).resolve().parent.parent
DEMO = REPO / "tests" / "data" / "demo"
HELD_EVERY = 5
# Mean magnitude of the difference over that of the weights, from to.
WEIGHT_ERRORS = {
    "fp8": (0.018, 0.027),
    "int8_sq": (0.006, 0.013),
    "nvfp4": (0.07, 0.11),
    "mxfp8": (0.018, 0.027),
    "int4_awq": (0.08, 0.16),
}
ALGORITHMS = {
    "fp8": "FP8",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "nvfp4": "NVFP4",
    "mxfp8": "MXFP8",
    "int4_awq": "W4A16_AWQ",
}
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def expect(tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    assert tensor.dtype == dtype and tuple(tensor.shape) == shape, (tensor.dtype, tensor.shape, dtype, shape)
    return tensor


def spread(scales: torch.Tensor, block: int) -> torch.Tensor:
    return scales.repeat_interleave(block, dim=1)


def decode(method: str, parts: dict[str, torch.Tensor], shape: tuple[int, int]) -> torch.Tensor:
    """The weights that the parts of a module stand for, f32 [out, in]."""
    n, k = shape
    weight, scale = parts["weight"], parts["weight_scale"]
    wanted = {"weight", "weight_scale"}
    if method == "fp8":
        wanted |= {"input_scale"}
        values = expect(weight, torch.float8_e4m3fn, (n, k)).float() * expect(scale, torch.float32, ())
    elif method == "mxfp8":
        powers = torch.exp2(expect(scale, torch.uint8, (n, k // 32)).float() - 127)
        values = expect(weight, torch.float8_e4m3fn, (n, k)).float() * spread(powers, 32)
    elif method == "nvfp4":
        wanted |= {"input_scale", "weight_scale_2"}
        packed = expect(weight, torch.uint8, (n, k // 2)).long()
        codes = torch.stack([packed & 15, packed >> 4], dim=-1).reshape(n, k)
        scales = expect(scale, torch.float8_e4m3fn, (n, k // 16)).float()
        values = E2M1[codes] * spread(scales * expect(parts["weight_scale_2"], torch.float32, ()), 16)
    elif method == "int8_sq":
        wanted |= {"input_scale", "pre_quant_scale"}
        values = expect(weight, torch.int8, (n, k)).float() * expect(scale, torch.float32, (n,))[:, None]
    else:
        wanted |= {"pre_quant_scale"}
        packed = expect(weight, torch.uint8, (n // 2, k)).long()
        nibbles = torch.stack([packed & 15, packed >> 4], dim=1).reshape(n, k)
        values = ((nibbles ^ 8) - 8).float() * spread(expect(scale, torch.float32, (n, k // 128)), 128)
    if "pre_quant_scale" in wanted:
        values = values * expect(parts["pre_quant_scale"], torch.float16, (k,)).float()
    if "input_scale" in wanted:
        assert expect(parts["input_scale"], torch.float32, ()).item() > 0
    assert set(parts) - {"bias", "k_scale", "v_scale"} == wanted, parts.keys()
    return values


def perplexity(model: torch.nn.Module, sequences: list[tuple[list[int], list[int]]]) -> float:
    """Of the answers behind their prompts."""
    surprise, n = 0.0, 0
    with torch.no_grad():
        for prompt, answer in sequences:
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
            chosen = logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
            surprise, n = surprise - chosen.sum().item(), n + len(answer)
    return math.exp(surprise / n)


Answers = list[tuple[list[int], list[int]]]


def check(jetspool: str, folder: Path, method: str, extra: list[str], sequences: Answers) -> dict:
    output = folder / "-".join([method, *extra]).replace("--", "")
    command = [jetspool, "quantize-llm", "--model_dir", DEMO / "checkpoint", "--output_dir", output]
    command += ["--quantization", method, "--calib", folder / "calibration.jsonl"]
    command += ["--eval", folder / "held.jsonl", *extra]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    report = json.loads((output / "quantization_report.json").read_text())
    about = json.loads((output / "hf_quant_config.json").read_text())["quantization"]
    assert about["quant_algo"] == ALGORITHMS[method], about
    assert about["exclude_modules"] == ["lm_head", "model.embed_tokens"], about
    assert json.loads((output / "config.json").read_text())["quantization_config"]["quant_method"] == "modelopt"
    AutoTokenizer.from_pretrained(output)

    model = AutoModelForCausalLM.from_pretrained(DEMO / "checkpoint", dtype=torch.float32)
    before = perplexity(model, sequences)
    stored = load_file(output / "model.safetensors")
    assert "lm_head.weight" not in stored
    errors = []
    for name, module in model.named_modules():
        prefix = name + "."
        parts = {key[len(prefix) :]: stored.pop(key) for key in list(stored) if key.rsplit(".", 1)[0] == name}
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            values = decode(method, parts, tuple(module.weight.shape))
            errors.append(((values - module.weight).abs().mean() / module.weight.abs().mean()).item())
            module.weight.data = values
            if "fp8" in extra:
                assert ("k_scale" in parts) == name.endswith("k_proj"), name
                assert ("v_scale" in parts) == name.endswith("v_proj"), name
        elif "weight" in parts:
            expect(parts["weight"], torch.float16, tuple(module.weight.shape))
        if "bias" in parts:
            expect(parts["bias"], torch.float16, tuple(module.bias.shape))
    assert not stored, f"no module has {sorted(stored)[:3]}"
    after = perplexity(model, sequences)
    error = sum(errors) / len(errors)
    low, high = WEIGHT_ERRORS[method]
    assert low < error < high, f"{method}: weight error {error}, wanted {low} to {high}"
    assert abs(error - report["weight_error"]) < 1e-4, (error, report["weight_error"])
    for found, wanted in ((before, report["perplexity_before"]), (after, report["perplexity_after"])):
        assert abs(found / wanted - 1) < 0.005, f"{method}: transformers says {found}, jetspool {wanted}"
    return report


def plain_lines(target: Path) -> None:
    """The texts of scripts/demo_data as lines in any order, four in a piece: harder to foretell than the answers."""
    lines = []
    for name in ("phrases", "medical", "general", "smalltalk"):
        rows = (REPO / "scripts" / "demo_data" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        rows = [row.split("\t") for row in rows if row and not row.startswith("@")]
        lines += [text for row in rows for text in (row if name == "phrases" else row[1:])]
    random.Random(1).shuffle(lines)
    pieces = ["\n".join(lines[at : at + 4]) for at in range(0, len(lines), 4)]
    target.write_text("\n".join(json.dumps({"text": piece}) for piece in pieces), encoding="utf-8")


def on_plain_lines(jetspool: str, folder: Path, extra: list[str]) -> dict:
    text, output = folder / "lines.jsonl", folder / "-".join(["lines", *extra])
    plain_lines(text)
    command = [jetspool, "quantize-llm", "--model_dir", DEMO / "checkpoint", "--output_dir", output]
    command += ["--quantization", "int4_awq", "--calib", text, *extra]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return json.loads((output / "quantization_report.json").read_text())


def show(title: str, report: dict) -> None:
    ratio = report["perplexity_ratio"]
    if "--table" in sys.argv:
        size, before, after = (report[key] for key in ("bytes_after", "perplexity_before", "perplexity_after"))
        error = report["weight_error"]
        print(f"| {title} | {size / 1e6:.2f} MB | {before:.4f} | {after:.4f} | {ratio:.4f} | {error:.4f} |", flush=True)
    else:
        print(f"{title}: perplexity {ratio:.4f}x", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    words = [word for word in sys.argv[1:] if word != "--table"]
    jetspool = words[0] if words else str(REPO / "target" / "release" / "jetspool")
    lines = (DEMO / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    held = lines[HELD_EVERY - 1 :: HELD_EVERY][:32]
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "checkpoint")
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = [json.loads(line) for line in held]
    sequences = [(encode(text["prompt"]), encode(text["completion"])) for text in texts]
    cases = [(method, []) for method in ("fp8", "mxfp8", "int8_sq", "nvfp4", "int4_awq")]
    cases += [("int4_awq", ["--round_to_nearest"]), ("fp8", ["--kv_cache_quantization", "fp8"])]
    reports = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "held.jsonl").write_text("\n".join(held), encoding="utf-8")
        others = "\n".join(line for line in lines if line not in held)
        (folder / "calibration.jsonl").write_text(others, encoding="utf-8")
        for method, extra in cases:
            title = " ".join([method, *extra])
            reports[title] = report = check(jetspool, folder, method, extra, sequences)
            show(title, report)
        for extra in ([], ["--round_to_nearest"]):
            title = " ".join(["int4_awq", *extra, "on plain lines"])
            reports[title] = on_plain_lines(jetspool, folder, extra)
            show(title, reports[title])
    for place in ("", " on plain lines"):
        awq, plain = reports["int4_awq" + place], reports["int4_awq --round_to_nearest" + place]
        assert awq["perplexity_after"] < plain["perplexity_after"], "AWQ must beat rounding to the nearest"
        assert awq["perplexity_ratio"] <= 1.02, awq["perplexity_ratio"]


if __name__ == "__main__":
    main()
