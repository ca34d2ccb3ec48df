"""Where a checkpoint may keep its chat templates, and which one transformers takes: one small directory for each case."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, ProcessorMixin

from .common import write_json

MESSAGES = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}}]
CONFIG = "tokenizer_config.json"
JINJA = "chat_template.jinja"
NAMED = "additional_chat_templates"
PROCESSOR = "chat_template.json"


def template(name: str) -> str:
    """A template that tells which one it is."""
    return name + ":{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"


def named(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "template": template(f"config {name}")} for name in names]


# File to content: of tokenizer_config.json and chat_template.json the value of `chat_template`.
CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "null": {CONFIG: None},
    "string": {CONFIG: template("config")},
    "list with a default": {CONFIG: named("tool_use", "default", "rag")},
    "list of a default": {CONFIG: named("default")},
    "list without a default": {CONFIG: named("tool_use", "rag")},
    "list of one that is no default": {CONFIG: named("tool_use")},
    "object": {CONFIG: {"tool_use": template("t"), "default": template("object")}},
    "object without a default": {CONFIG: {"tool_use": template("t"), "rag": template("r")}},
    "file": {JINJA: template("file")},
    "file and string": {JINJA: template("file"), CONFIG: template("config")},
    "file and list": {JINJA: template("file"), CONFIG: named("tool_use", "default")},
    "file and list without a default": {JINJA: template("file"), CONFIG: named("tool_use")},
    "file and named files": {JINJA: template("file"), f"{NAMED}/tool_use.jinja": template("named tool_use")},
    "named files alone": {f"{NAMED}/tool_use.jinja": template("named tool_use")},
    "named files and a string": {f"{NAMED}/tool_use.jinja": template("n"), CONFIG: template("config")},
    "a named file called default": {JINJA: template("file"), f"{NAMED}/default.jinja": template("named default")},
    "only a named file called default": {f"{NAMED}/default.jinja": template("named default"), CONFIG: template("c")},
    "named files of other kinds": {CONFIG: template("config"), f"{NAMED}/tool_use.txt": template("text")},
    "processor": {PROCESSOR: template("processor")},
    "processor and string": {PROCESSOR: template("processor"), CONFIG: template("config")},
    "processor and file": {PROCESSOR: template("processor"), JINJA: template("file")},
    "processor and null": {PROCESSOR: template("processor"), CONFIG: None},
}


def write_case(case: dict[str, Any], folder: Path) -> dict[str, str]:
    """The case's files, written; tokenizer_config.json is always there."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    if CONFIG in case:
        config["chat_template"] = case[CONFIG]
    files = {CONFIG: json.dumps(config)}
    files |= {name: content for name, content in case.items() if name not in (CONFIG, PROCESSOR)}
    if PROCESSOR in case:
        files[PROCESSOR] = json.dumps({"chat_template": case[PROCESSOR]})
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return files


def outcome(folder: Path) -> dict[str, Any]:
    """{"rendered", "with_tools"}, {"names"} of an error that lists them, or {"none"}.

    The processor's file is asked where the tokenizer has no template, as who runs such a model with transformers does.
    """
    Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    source = None
    if tokenizer.chat_template is None:
        source = ProcessorMixin.get_processor_dict(folder)[0].get("chat_template")
        if source is None:
            return {"none": True}
    def rendered(**tools: Any) -> str:
        return tokenizer.apply_chat_template(MESSAGES, chat_template=source, tokenize=False, **tools)

    try:
        return {"rendered": rendered(), "with_tools": rendered(tools=TOOLS)}
    except ValueError as error:
        assert "no default specified" in str(error)
        return {"names": sorted(tokenizer.chat_template)}


def make_template_places(root: Path) -> None:
    """template_places.json."""
    cases = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            files = write_case(case, Path(folder))
            cases.append({"name": name, "files": files} | outcome(Path(folder)))
    write_json(root / "template_places.json", {"messages": MESSAGES, "tools": TOOLS, "cases": cases})
