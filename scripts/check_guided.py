"""Judges guided answers; see scripts/check-guided."""

import collections
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parent.parent
N_SCHEMAS, N_REGEXES, N_GRAMMARS = 500, 200, 50
MAX_TOKENS = 480
WORDS = ["red", "blue", "on", "off", "pump", "valve", "a b", "\u00e9t\u00e9", 'quote "x"', "back\\slash"]


def schema(rng: random.Random, depth: int = 0) -> dict:
    """A schema of the kinds that people write; some keywords cannot be enforced."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const"]
    if depth < 3:
        kinds += ["object"] * 4 + ["array"] * 2 + ["anyOf"]
    kind = rng.choice(kinds) if depth else rng.choice(["object", "array", "anyOf"])
    match kind:
        case "string":
            found: dict = {"type": "string"}
            choice = rng.randrange(6)
            if choice == 0:
                found |= {"minLength": rng.randrange(3), "maxLength": rng.randrange(3, 9)}
            elif choice == 1:
                found["pattern"] = rng.choice(["^[a-c]{2,5}$", "^\\d{3}-\\d{2}$", "^(yes|no)$"])
            elif choice == 2:
                found["format"] = rng.choice(["date", "uuid", "ipv4", "time"])
            elif choice == 3:
                found["format"] = "no-such-format"
            else:
                found["maxLength"] = rng.randrange(1, 12)
            return found
        case "integer" | "number":
            low = rng.randrange(-50, 50)
            found = {"type": kind, "minimum": low, "maximum": low + rng.randrange(1, 100)}
            if rng.randrange(12) == 0:
                found["multipleOf"] = 5
            return found
        case "boolean" | "null":
            return {"type": kind}
        case "enum":
            return {"enum": rng.sample([*WORDS, 1, 2.5, True, None], rng.randrange(1, 4))}
        case "const":
            return {"const": rng.choice([*WORDS, 7, False])}
        case "object":
            names = rng.sample(["id", "name", "state", "tags", "size", "at", "a b"], rng.randrange(1, 4))
            found = {"type": "object", "properties": {name: schema(rng, depth + 1) for name in names}}
            found["required"] = rng.sample(names, rng.randrange(len(names) + 1))
            found["additionalProperties"] = False
            if rng.randrange(25) == 0:
                found["patternProperties"] = {"^x": {"type": "integer"}}
            return found
        case "array":
            low = rng.randrange(3)
            found = {"type": "array", "items": schema(rng, depth + 1), "minItems": low, "maxItems": low + rng.randrange(1, 3)}
            if rng.randrange(12) == 0:
                found["uniqueItems"] = True
            return found
        case _:
            return {"anyOf": [schema(rng, depth + 1) for _ in range(rng.randrange(2, 4))]}


def regex(rng: random.Random, depth: int = 0) -> str:
    parts = []
    for _ in range(rng.randrange(1, 4)):
        part = rng.choice(["[a-f]", "\\d", "x", "[^a-z\\s]", "ab", "\\.", "[A-Z0-9]"])
        if depth < 2 and rng.randrange(3) == 0:
            part = f"({regex(rng, depth + 1)}|{regex(rng, depth + 1)})"
        parts.append(part + rng.choice(["", "", "?", "{1,3}", "{2}"]))
    return "".join(parts)


def grammar(rng: random.Random) -> tuple[str, str]:
    """GBNF and the regular expression of the same language."""
    letters = rng.choice(["[a-d]", "[0-9]", "[xyz]"])
    low, high = rng.randrange(1, 3), rng.randrange(3, 5)
    mark = rng.choice(["-", "*", "=>", "#"])
    text = f'root ::= item{{{low},{high}}} | "none" # nothing\nitem ::= "{mark} " word ("," word)?\n  "\\n"\nword ::= {letters}{{1,4}}'
    word = letters + "{1,4}"
    return text, f"(?:{re.escape(mark)} {word}(?:,{word})?\n){{{low},{high}}}|none"


def build(jetspool: str, folder: pathlib.Path, batch_size: int) -> pathlib.Path:
    """An engine that answers so many requests at once."""
    engine = folder / f"engine-{batch_size}"
    sizes = ["--maxBatchSize", str(batch_size), "--maxInputLen", "256", "--maxKVCacheCapacity", "768"]
    command = [jetspool, "build", "--modelDir", ROOT / "tests/data/demo/checkpoint", "--engineDir", engine, "--precision", "int8"]
    subprocess.run([*command, *sizes], check=True, capture_output=True)
    return engine


def ask(jetspool: str, engine: pathlib.Path, folder: pathlib.Path, requests: list[dict]) -> list[dict]:
    source, target = folder / "in.json", folder / "out.json"
    source.write_text(json.dumps({
        "temperature": 1.0, "max_generate_length": MAX_TOKENS, "requests": requests,
    }))
    command = [jetspool, "run", "--device", "cpu", "--engineDir", engine, "--inputFile", source, "--outputFile", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 65):
        sys.exit(done.stderr)
    return json.loads(target.read_text())["responses"]


def main() -> None:
    jetspool = sys.argv[1]
    rng = random.Random(20_261_130)
    guides: list[tuple[dict, object]] = []
    for _ in range(N_SCHEMAS):
        found = schema(rng)
        guides.append(({"json_schema": found}, found))
    for _ in range(N_REGEXES):
        found = regex(rng)
        guides.append(({"regex": found}, found))
    for _ in range(N_GRAMMARS):
        text, pattern = grammar(rng)
        guides.append(({"ebnf": text}, pattern))
    requests = []
    for index, (guide, _) in enumerate(guides):
        message = [{"role": "user", "content": f"Translate to French: number {index}"}]
        requests.append({"messages": message, "sampling_seed": index, "guided_decoding": guide})
    # Free ones between.
    mixed = [request if index % 8 else {**request, "guided_decoding": None} for index, request in enumerate(requests)]
    counts: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        alone = ask(jetspool, build(jetspool, folder, 1), folder, requests)
        together = ask(jetspool, build(jetspool, folder, 8), folder, mixed)
    for index, ((guide, judge), answer, beside) in enumerate(zip(guides, alone, together, strict=True)):
        kind = next(iter(guide))
        if index % 8 and answer.get("token_ids") != beside.get("token_ids"):
            sys.exit(f"{guide}: other tokens in a batch")
        if answer.get("error"):
            if answer["error"]["code"] != "guide":
                sys.exit(f"{guide}: {answer['error']}")
            counts[kind, "refused"] += 1
            continue
        text = answer["output_text"]
        if answer["finish_reason"] == "max-length":
            counts[kind, "cut short"] += 1
            continue
        if kind == "json_schema":
            checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
            jsonschema.Draft202012Validator(judge, format_checker=checker).validate(json.loads(text))
        elif not re.fullmatch(judge, text):
            sys.exit(f"{guide}: {text!r}")
        counts[kind, "kept"] += 1
    for (kind, what), count in sorted(counts.items()):
        print(f"{kind}: {count} {what}")
    if counts["json_schema", "kept"] < N_SCHEMAS // 2:
        sys.exit("too few answers were whole")


if __name__ == "__main__":
    main()
