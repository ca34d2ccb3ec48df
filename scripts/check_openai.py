"""Answers to a batch file, validated by the types of the openai package without any leniency."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import BaseModel

MODEL = Path("tests/data/demo/checkpoint")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "older", "description": "Adds years.", "parameters": PERSON}}]


def chat(content: str, **more: Any) -> CompletionCreateParamsNonStreaming:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    return {"model": "demo", "messages": messages, "max_completion_tokens": 600, **more}


BODIES: list[tuple[str, dict[str, Any]]] = [
    ("chat", chat("Translate to French: one")),
    ("chat", chat("Hello", n=3, temperature=1.0, seed=7, top_p=0.9)),
    ("chat", chat("Hello", logprobs=True, top_logprobs=3, n=2)),
    ("chat", chat("Hello", logprobs=True, max_completion_tokens=1)),
    ("chat", chat("Who?", response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}})),
    ("chat", chat("Older!", tools=TOOLS, tool_choice="required", parallel_tool_calls=False)),
    ("chat", chat("Older!", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "older"}})),
    ("chat", chat("Older!", tools=TOOLS, tool_choice="auto", stop=["."])),
    ("text", {"model": "demo", "prompt": "Hello", "max_tokens": 5, "n": 2}),
    ("text", {"model": "demo", "prompt": "Hello", "logprobs": 3}),
    ("chat", chat("Hello", frequency_penalty=1)),
    ("chat", {**chat("Hello"), "model": "nobody"}),
]


def line(index: int, kind: str, body: dict[str, Any]) -> str:
    url = "/v1/chat/completions" if kind == "chat" else "/v1/completions"
    return json.dumps({"custom_id": f"request-{index}", "method": "POST", "url": url, "body": body})


def unknown_fields(value: Any) -> list[str]:
    """What a type does not know: the package keeps it beside its fields."""
    if isinstance(value, list):
        return [name for item in value for name in unknown_fields(item)]
    if not isinstance(value, BaseModel):
        return []
    own = list(value.model_extra or {})
    return own + [name for field in type(value).model_fields for name in unknown_fields(getattr(value, field))]


def answers(jetspool: str, folder: Path) -> list[dict[str, Any]]:
    engine, source, target = folder / "engine", folder / "in.jsonl", folder / "out.jsonl"
    subprocess.run([jetspool, "build", "--modelDir", MODEL, "--engineDir", engine], check=True, stdout=subprocess.DEVNULL)
    source.write_text("\n".join(line(index, kind, body) for index, (kind, body) in enumerate(BODIES)), encoding="utf-8")
    command = [jetspool, "run", "--engineDir", engine, "--inputFile", source, "--outputFile", target, "--servedModelName", "demo"]
    assert subprocess.run(command, check=False).returncode == 65, "two lines fail"
    return [json.loads(text) for text in target.read_text(encoding="utf-8").splitlines()]


def check(answer: dict[str, Any], kind: str, body: dict[str, Any]) -> None:
    parsed = (ChatCompletion if kind == "chat" else Completion).model_validate(answer["response"]["body"], strict=True)
    assert not unknown_fields(parsed), unknown_fields(parsed)
    assert len(parsed.choices) == body.get("n", 1)
    assert parsed.usage is not None and parsed.usage.total_tokens == parsed.usage.prompt_tokens + parsed.usage.completion_tokens
    for choice in parsed.choices:
        if body.get("logprobs"):
            assert choice.logprobs is not None
        if kind == "chat" and body.get("tool_choice") not in (None, "auto"):
            (call,) = choice.message.tool_calls[:1]
            assert isinstance(call, ChatCompletionMessageFunctionToolCall) and call.function.name == "older"
            assert choice.finish_reason == "tool_calls" and set(json.loads(call.function.arguments)) == {"name", "age"}
        if "response_format" in body and choice.finish_reason == "stop":
            assert set(json.loads(choice.message.content)) == {"name", "age"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = answers(sys.argv[1], Path(folder))
    assert [answer["custom_id"] for answer in found] == [f"request-{index}" for index in range(len(BODIES))]
    n_failed = 0
    for answer, (kind, body) in zip(found, BODIES, strict=True):
        if answer["error"] is not None:
            n_failed += 1
            assert answer["response"]["status_code"] in (400, 404) and answer["response"]["body"]["error"] == answer["error"]
            continue
        check(answer, kind, body)
    assert n_failed == 2, n_failed
    print(f" {len(BODIES) - n_failed} answers are what the openai package's types want, {n_failed} are errors of the API")


if __name__ == "__main__":
    main()
