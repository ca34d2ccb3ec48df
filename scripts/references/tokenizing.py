"""Small tokenizers in the style of three families, and what they make of nasty text."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .common import seeded, write_json
from .corpus import LONG, SHORT, TRAINING, with_special_tokens

# The models qwen2, llama3 and mistral have 608 rows: a few ids beyond every tokenizer, as real ones do.
N_PIECES = 596
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Family:
    """A tokenizer, its special tokens and where its chat template goes."""

    name: str
    tokenizer: Tokenizer
    added: list[str]
    bos: str | None
    eos: str
    chat_template: str | dict[str, str]
    template_in_config: bool


def template(name: str) -> str:
    """The source of a chat template."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def special(text: str) -> AddedToken:
    return AddedToken(text, special=True, normalized=False)


def rebuild(tokenizer: Tokenizer, edit: Any) -> Tokenizer:
    """The tokenizer after an edit of its JSON."""
    content = json.loads(tokenizer.to_str())
    edit(content)
    return Tokenizer.from_str(json.dumps(content))


def common_characters(count: int) -> list[str]:
    """The characters that are pieces of their own where bytes are the fallback."""
    counts = Counter("".join(TRAINING).replace(" ", "\u2581"))
    return sorted(counts, key=lambda character: (-counts[character], character))[:count]


def trained(tokenizer: Tokenizer, n_pieces: int, reserved: list[str], alphabet: list[str]) -> Tokenizer:
    """Learns merges over the alphabet from the training text until there are n_pieces."""
    trainer = trainers.BpeTrainer(
        vocab_size=n_pieces, initial_alphabet=sorted(alphabet), limit_alphabet=len(alphabet), special_tokens=reserved,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(TRAINING * 2, trainer)
    assert tokenizer.get_vocab_size() == n_pieces, tokenizer.get_vocab_size()
    return tokenizer


def byte_level(split: str, ignore_merges: bool) -> Tokenizer:
    """Byte-level BPE. Two pieces at the end are in no merge: only ignore_merges can reach them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(split), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer = trained(tokenizer, N_PIECES - 2, [], pre_tokenizers.ByteLevel.alphabet())

    def edit(content: dict[str, Any]) -> None:
        content["model"]["vocab"] |= {"\u0120jetspool": N_PIECES - 2, "jetspool": N_PIECES - 1}
        content["model"]["ignore_merges"] = ignore_merges

    return rebuild(tokenizer, edit)


def qwen2() -> Family:
    """NFC, one digit a piece, no token of its own around the text; <think> is added but not special."""
    tokenizer = byte_level(QWEN2_SPLIT, ignore_merges=False)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_tokens([special(text) for text in added])
    plain = ["<think>", "</think>"]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    return Family("qwen2", tokenizer, added + plain, None, "<|im_end|>", template("qwen3"), False)


def llama3() -> Family:
    """Three digits a piece, whole pieces first (ignore_merges), <|begin_of_text|> in front."""
    tokenizer = byte_level(LLAMA3_SPLIT, ignore_merges=True)
    added = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_tokens([special(text) for text in added])
    bos = added[0]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos}:1 $B:1", [(bos, tokenizer.token_to_id(bos))]),
    ])  # fmt: skip
    return Family("llama3", tokenizer, added, bos, "<|eot_id|>", template("llama3"), False)


def byte_fallback(added: list[str], shuffle: bool) -> Tokenizer:
    """Pieces with U+2581 for the space; an unknown character falls back to <0xNN> pieces."""
    reserved = ["<unk>", *added, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer = trained(tokenizer, N_PIECES, reserved, common_characters(40))

    def edit(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        if shuffle:
            order = torch.randperm(len(vocab) - len(reserved), generator=seeded("shuffle")).tolist()
            vocab |= {piece: len(reserved) + order[i - len(reserved)] for piece, i in vocab.items() if i >= len(reserved)}
        content["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
        content |= {"added_tokens": [], "pre_tokenizer": None}

    tokenizer = rebuild(tokenizer, edit)
    tokenizer.add_special_tokens([special(text) for text in reserved[: 1 + len(added)]])
    bos = added[0]
    tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos}:1 $B:1", [(bos, 1)])
    return tokenizer


MISTRAL_ADDED = ["<s>", "</s>", "[INST]", "[/INST]"]


def mistral() -> Family:
    """The older spelling: the normalizer turns spaces into U+2581 and puts one in front."""
    tokenizer = byte_fallback(MISTRAL_ADDED, shuffle=False)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    return Family("mistral", tokenizer, MISTRAL_ADDED, "<s>", "</s>", template("mistral"), True)


def mistral_metaspace() -> Family:
    """The newer spelling (Metaspace), ids in no order of merges, added tokens that strip or want whole words."""
    tokenizer = byte_fallback(MISTRAL_ADDED, shuffle=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    strips = AddedToken("<|tool|>", special=True, normalized=False, lstrip=True, rstrip=True)
    word = AddedToken("robot", special=False, normalized=True, single_word=True)
    tokenizer.add_special_tokens([strips])
    tokenizer.add_tokens([word])
    templates = {"default": template("mistral"), "tool_use": template("qwen2")}
    added = [*MISTRAL_ADDED, "<|tool|>", "robot"]
    return Family("mistral_metaspace", tokenizer, added, "<s>", "</s>", templates, True)


GEMMA_ADDED = ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"]


def gemma() -> Family:
    """Spaces become U+2581, none is put in front, and pieces end with the text's spaces; runs of line feeds and of
    U+2581 are added tokens that are not special."""
    reserved = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    runs = ["\n\n", "\n\n\n", "\u2581\u2581", "\u2581\u2581\u2581"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer = trained(tokenizer, N_PIECES, [*reserved, *runs, *fallback], common_characters(40))

    def edit(content: dict[str, Any]) -> None:
        content["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
        content |= {"added_tokens": [], "pre_tokenizer": None}

    tokenizer = rebuild(tokenizer, edit)
    tokenizer.add_special_tokens([special(text) for text in reserved])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in runs])
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", "<bos> $A <bos>:1 $B:1", [("<bos>", bos)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return Family("gemma", tokenizer, [*GEMMA_ADDED, *runs], "<bos>", "<eos>", template("gemma"), False)


def text_case(tokenizer: PreTrainedTokenizerFast, text: str) -> dict[str, Any]:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return {
        "text": text,
        "ids": ids,
        "ids_with_special_tokens": tokenizer.encode(text, add_special_tokens=True),
        "ids_plain": tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True),
        "decoded": tokenizer.decode(ids, skip_special_tokens=True),
        "decoded_all": tokenizer.decode(ids, skip_special_tokens=False),
    }


def id_sequences(tokenizer: PreTrainedTokenizerFast, name: str) -> list[list[int]]:
    """Cut multibyte characters, random ids, ids beyond the vocabulary."""
    size, result = len(tokenizer), []
    for text in ("😀é漢", "👨\u200d👩\u200d👧", "naïve 你好 мир"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        result += [ids[:end] for end in range(1, len(ids))] + [ids[start:] for start in range(1, len(ids))]
        result += [ids[::-1], ids[::2]]
    generator = seeded("ids", name)
    result += [torch.randint(0, size, (n,), generator=generator).tolist() for n in range(2, 34)]
    return [*result, [], [size], [10, size + 3, 11], [size, size]]


def decode_case(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> dict[str, Any]:
    return {
        "ids": ids,
        "decoded": tokenizer.decode(ids, skip_special_tokens=True),
        "decoded_all": tokenizer.decode(ids, skip_special_tokens=False),
    }


def cases(tokenizer: PreTrainedTokenizerFast, family: Family) -> dict[str, Any]:
    """What cases.json holds."""
    texts = SHORT + with_special_tokens(family.added)
    if family.name == "mistral_metaspace":
        texts += ["robot robots a robot. robot", "x  <|tool|>  y", "robotrobot <|tool|>robot"]
    return {
        "vocab_size": len(tokenizer),
        "special_ids": sorted(tokenizer.all_special_ids),
        "cases": [text_case(tokenizer, text) for text in texts],
        "long_cases": [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False)} for text in LONG],
        "single_ids": [tokenizer.decode([i], skip_special_tokens=False) for i in range(len(tokenizer))],
        "decode_cases": [decode_case(tokenizer, ids) for ids in id_sequences(tokenizer, family.name)],
    }


def make_tokenizer(family: Family, root: Path) -> None:
    """Saves the tokenizer as transformers does, and cases.json beside it."""
    folder = root / "tokenizers" / family.name
    shutil.rmtree(folder, ignore_errors=True)
    extra = [t.content for t in family.tokenizer.get_added_tokens_decoder().values() if t.special]
    extra = [t for t in extra if t not in (family.bos, family.eos, "<unk>")]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=family.tokenizer, bos_token=family.bos, eos_token=family.eos,
        unk_token="<unk>" if family.bos in ("<s>", "<bos>") else None, additional_special_tokens=extra,
        clean_up_tokenization_spaces=False, model_max_length=512, chat_template=family.chat_template,
    )  # fmt: skip
    tokenizer.save_pretrained(folder, save_jinja_files=not family.template_in_config)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    write_json(folder / "cases.json", cases(tokenizer, family))


def make_tokenizers(root: Path) -> None:
    for family in (qwen2(), llama3(), mistral(), mistral_metaspace(), gemma()):
        make_tokenizer(family, root)
