"""processed_chat_template.json in the documented layout, and the prompts it must give.

The prompts come from a small formatter written after the documented rules; where a Jinja template
says the same, the two are compared here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .chat import CONVERSATIONS, SIGNS, UNICODE, render, renderer, text, turns
from .common import write_json
from .tokenizing import template

ASCII_SPACE = " \t\n\r\v\f"


def chatml(default_system: str, **prompts: str) -> dict[str, Any]:
    roles = {role: {"prefix": f"<|im_start|>{role}\n", "suffix": "<|im_end|>\n"} for role in ("system", "user", "assistant")}
    return {"model_path": "qwen2", "roles": roles, "content_types": {}} | prompts | {"default_system_prompt": default_system}


def llama3(bos: str, **more: Any) -> dict[str, Any]:
    """`bos` stands in front of the system block, as the older extraction leaves it."""
    roles = {
        role: {"prefix": f"<|start_header_id|>{role}<|end_header_id|>\n\n", "suffix": "<|eot_id|>"}
        for role in ("system", "user", "assistant")
    }
    roles["system"]["prefix"] = bos + roles["system"]["prefix"]
    prompt = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    return {
        "model_path": "llama3", "roles": roles, "content_types": {}, "generation_prompt": prompt,
        "default_system_prompt": "", **more,
    }  # fmt: skip


TEMPLATES: dict[str, dict[str, Any]] = {
    "chatml": chatml("You are Spool, a careful assistant.", generation_prompt="<|im_start|>assistant\n"),
    "chatml_thinking": chatml(
        "",
        generation_prompt="<|im_start|>assistant\n<think>\n\n</think>\n\n",
        generation_prompt_thinking="<|im_start|>assistant\n",
    ),
    "llama3": llama3("<|begin_of_text|>"),
    "llama3_prompt_prefix": llama3("", prompt_prefix="<|begin_of_text|>", trim_content=True),
}

PROMPTS: list[list[dict[str, Any]]] = [
    turns("Hello"),
    turns("Hello", system="Be brief."),
    turns("Hi", "Hello!", "How are you?", system="Be kind."),
    turns("Hi", "Hello!", "How are you?"),
    turns(SIGNS, UNICODE, SIGNS, system=UNICODE),
    turns("  spaces \n", "\tx\u00a0", "\u00a0y ", system=" \n s "),
    turns(text("two ", "parts"), text("one"), text("three ", "more", " parts"), system=text("a ", "system")),
    turns("", "", ""),
    turns("An empty system message gives an empty block.", system=""),
    [*turns("one", system="first"), {"role": "system", "content": "late"}, *turns("two")],
    [*turns("one"), {"role": "system", "content": "late, after the default"}],
    [*turns("known"), {"role": "tool", "content": "an unknown role is left out"}],
    [{"role": "assistant", "content": "I start."}, *turns("So do I.")],
]

FLAGS: list[dict[str, bool]] = [
    {"apply_chat_template": True, "add_generation_prompt": True, "enable_thinking": False},
    {"apply_chat_template": True, "add_generation_prompt": True, "enable_thinking": True},
    {"apply_chat_template": True, "add_generation_prompt": False, "enable_thinking": False},
    {"apply_chat_template": False, "add_generation_prompt": True, "enable_thinking": False},
]


def content_of(message: dict[str, Any], trim: bool) -> str:
    content = message["content"]
    joined = content if isinstance(content, str) else "".join(part["text"] for part in content)
    return joined.strip(ASCII_SPACE) if trim else joined


def block(layout: dict[str, Any], message: dict[str, Any]) -> str:
    """prefix + content + suffix; nothing for a role that the layout does not know."""
    role = layout["roles"].get(message["role"])
    if role is None:
        return ""
    return role["prefix"] + content_of(message, layout.get("trim_content", False)) + role["suffix"]


def system_first(layout: dict[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with the default system prompt in front if there is one and it is needed."""
    default = layout["default_system_prompt"]
    if messages[0]["role"] == "system" or not default:
        return messages
    return [{"role": "system", "content": default}, *messages]


def prompt(layout: dict[str, Any], messages: list[dict[str, Any]], flags: dict[str, bool]) -> str:
    if not flags["apply_chat_template"]:
        return "".join(content_of(message, False) for message in messages)
    result = layout.get("prompt_prefix", "")
    result += "".join(block(layout, message) for message in system_first(layout, messages))
    if flags["add_generation_prompt"]:
        plain = layout["generation_prompt"]
        result += layout.get("generation_prompt_thinking", plain) if flags["enable_thinking"] else plain
    return result


def check_against_jinja() -> None:
    """ChatML's layout and Jinja template agree wherever both are defined."""
    tokenizer, source = renderer(None, "<|im_end|>"), template("qwen2")
    for messages in CONVERSATIONS:
        if any(not isinstance(m["content"], str) or m["role"] not in TEMPLATES["chatml"]["roles"] for m in messages):
            continue
        wanted = render(tokenizer, source, messages, {"add_generation_prompt": True})["rendered"]
        assert prompt(TEMPLATES["chatml"], messages, FLAGS[0]) == wanted, messages


def make_processed_templates(root: Path) -> None:
    """processed_templates/NAME.json: {"template", "cases"}."""
    shutil.rmtree(root / "processed_templates", ignore_errors=True)
    check_against_jinja()
    for name, layout in TEMPLATES.items():
        cases = [{"messages": m, **f, "rendered": prompt(layout, m, f)} for m in PROMPTS for f in FLAGS]
        write_json(root / "processed_templates" / f"{name}.json", {"template": layout, "cases": cases})
