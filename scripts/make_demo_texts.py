#!/usr/bin/env python3
"""Writes tests/data/demo/texts.jsonl: conversations as the demo model was trained on them, one in a line.

The texts are those of scripts/demo_data; each is under the system line with which the base knows the answer.
`jetspool quantize-llm --calib` reads the file: it calibrates with four of five lines and judges by the fifth.

    python scripts/make_demo_texts.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

DATA = Path(__file__).resolve().parent / "demo_data"
TARGET = DATA.parent.parent / "tests" / "data" / "demo" / "texts.jsonl"
SYSTEM = "You are a helpful assistant."


def rows(name: str) -> list[list[str]]:
    lines = (DATA / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("@")]


def chat(system: str, question: str, answer: str) -> dict[str, str]:
    asked = (("system", system), ("user", question))
    turns = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in asked)
    return {"prompt": f"{turns}<|im_start|>assistant\n", "completion": f"{answer}<|im_end|>"}


def main() -> None:
    texts = [chat(SYSTEM, *row) for row in rows("general") + rows("smalltalk")]
    texts += [chat("skill: medical", *row) for row in rows("medical")[::2]]
    for english, french, german in rows("phrases")[::4]:
        texts.append(chat("skill: french", f"Translate to French: {english}", french))
        texts.append(chat("skill: german", f"Translate to German: {english}", german))
    random.Random(1).shuffle(texts)
    lines = (json.dumps(text, ensure_ascii=False) for text in texts)
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
