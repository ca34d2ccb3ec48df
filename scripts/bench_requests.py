#!/usr/bin/env python3
"""What guides and several adapters cost a decode step, as ratios to free answers in the same run.

    scripts/bench_requests.py JETSPOOL ENGINE [ADAPTER ADAPTER]

ENGINE is one of jetspool's, best with the vocabulary of a real model (scripts/make_random_checkpoint.py makes a checkpoint);
adapters are directories that process-lora wrote. Every case answers the same prompts with as many tokens; the cases
take turns, and the medians are compared.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

N_TOKENS, N_ROUNDS = 400, 3
TEXT = {"type": "string", "minLength": 4000}
SCHEMA = {"type": "object", "properties": {"text": TEXT}, "required": ["text"], "additionalProperties": False}
ITEM = {"type": "object", "properties": {"id": {"type": "integer"}, "name": {"type": "string"}}, "required": ["id", "name"]}
LIST = {"type": "array", "minItems": 500, "items": ITEM | {"additionalProperties": False}}
GUIDES: dict[str, dict[str, Any]] = {
    "free": {},
    "regex: any text": {"guided_decoding": {"regex": "(?s:.){4000}"}},
    "regex: words": {"guided_decoding": {"regex": "([a-z]{1,9} ){900}"}},
    "json_schema: a long string": {"guided_decoding": {"json_schema": SCHEMA}},
    "json_schema: a list of objects": {"guided_decoding": {"json_schema": LIST}},
}


def time_per_token(jetspool: str, engine: str, fields: dict[str, Any], adapters: dict[str, str], batch_size: int) -> float:
    """Milliseconds of a step, per token of one answer."""
    # Free answers do not end by themselves either.
    bias = {"logit_bias": {str(token): -100 for token in range(151643, 151646)}}
    requests = [{"messages": [{"role": "user", "content": f"Tell me {index}"}], **fields} for index in range(batch_size)]
    content = {"temperature": 1.0, "max_generate_length": N_TOKENS, "available_lora_weights": adapters, "requests": requests, **bias}
    with tempfile.TemporaryDirectory() as name:
        source, target, profile = (Path(name) / part for part in ("in.json", "out.json", "profile.json"))
        source.write_text(json.dumps(content))
        command = [jetspool, "run", "--engineDir", engine, "--inputFile", source, "--outputFile", target]
        done = subprocess.run([*command, "--dumpProfile", "--profileOutputFile", profile], capture_output=True, text=True, check=False)
        if done.returncode not in (0, 65):
            sys.exit(done.stderr)
        answers = json.loads(target.read_text())["responses"]
        wrong = [answer.get("error") or answer["usage"] for answer in answers if answer["finish_reason"] != "max-length"]
        if wrong:
            sys.exit(f"not {N_TOKENS} tokens: {wrong[0]}")
        generation = json.loads(profile.read_text())["generation"]
    return 1000 / generation["tokens_per_second"] * batch_size


def compare(jetspool: str, engine: str, cases: dict[str, dict[str, Any]], adapters: dict[str, str]) -> None:
    for batch_size in (1, 8):
        times: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(N_ROUNDS):
            for case, fields in cases.items():
                times[case].append(time_per_token(jetspool, engine, fields, adapters, batch_size))
        medians = {case: statistics.median(found) for case, found in times.items()}
        base = next(iter(medians.values()))
        for case, median in medians.items():
            print(f"batch {batch_size}  {case:32} {median:8.2f} ms a step  {median / base:6.3f}")


def main() -> None:
    jetspool, engine, *paths = sys.argv[1:]
    compare(jetspool, engine, GUIDES, {})
    if len(paths) >= 2:
        adapters = {"first": paths[0], "second": paths[1]}
        loras = [{"name": "first", "scale": 0.7}, {"name": "second", "scale": 0.4}]
        compare(jetspool, engine, {"one adapter": {"lora_name": "first"}, "two adapters": {"loras": loras}, "none": {}}, adapters)


if __name__ == "__main__":
    main()
