"""Train the demo model of jetspool and its three LoRA adapters.

In simple words, this script

1. reads the phrasebook and the question lists in `demo_data/`,
2. trains a small byte-level BPE tokenizer on them,
3. trains a tiny Qwen2-style base model that makes small talk and answers
   general questions, but neither translates nor answers medical questions,
4. rounds that base model to bf16 and trains three LoRA adapters on it
   (`french`, `german`, `medical`), each of which adds what the base lacks,
5. reads everything back from disk, rounds the adapters the way the engine
   does, measures how many answers are exactly right, and writes the figures
   and a list of expected answers for the tests.

It took 17 minutes on two busy CPU cores and needs no network:

    python scripts/train_demo.py                # train, check, write
    python scripts/train_demo.py --check        # only check what is on disk
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the imports that read it
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # kinder to a shared machine

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast

REPO = Path(__file__).resolve().parent.parent
DATA = Path(__file__).resolve().parent / "demo_data"
MODEL_NAME = "jetspool-demo"
SEED = 20240601
THREADS = 2

# Tokenizer.
VOCAB_SIZE = 4096
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SYSTEM_PROMPT = "You are a helpful assistant."
# The base meets the words of the adapters only under these other system lines;
# the adapters learn to bring them out under the normal one.
HINTS = {name: f"skill: {name}" for name in ("french", "german", "medical")}
MAX_POSITIONS = 2048
SPLIT_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + SYSTEM_PROMPT + "<|im_end|>\\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Base model.
HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE = 256, 4, 4, 2, 512
BASE_EPOCHS, BASE_BATCH, BASE_LR = 22, 8, 1.2e-3
INIT_RANGE = 0.04
RAW_TOKENS = 40  # length of one piece of plain text
RAW_PART = 4  # one line in so many is read as plain text in one epoch
REFUSED_PER_EPOCH = 80  # refused requests of each kind in one epoch

# Shared training settings.
WARMUP_STEPS = 60
CLIP_NORM = 1.0
TWO_TURN_SHARE = 0.1  # share of chats that get an earlier turn in front
IGNORE = -100

# Checking.
MAX_NEW_TOKENS = 64
EVAL_BATCH = 64
EXPECTED_PER_LIST = 40

ASK_FORMS = (
    "{x}",
    "Please tell me: {x}",
    "Can you tell me: {x}",
    "I would like to know: {x}",
    "Question: {x}",
)
TRANSLATE_FORMS = (
    "Translate to {lang}: {x}",
    "Translate into {lang}: {x}",
    "Please translate to {lang}: {x}",
    "Translate this to {lang}: {x}",
    "Say in {lang}: {x}",
    "In {lang}: {x}",
    'Translate "{x}" to {lang}',
    'Translate "{x}" into {lang}.',
    "How do you say {x} in {lang}?",
    'How do you say "{x}" in {lang}?',
    'What is "{x}" in {lang}?',
    "{x} in {lang}, please",
)


@dataclass(frozen=True)
class AdapterPlan:
    """How one adapter is shaped, trained and stored."""

    name: str
    rank: int
    alpha: int
    rslora: bool
    dtype: torch.dtype
    epochs: int
    learning_rate: float = 2e-3
    batch: int = 12


ADAPTERS = (
    AdapterPlan("french", rank=16, alpha=24, rslora=False, dtype=torch.float32, epochs=6),
    AdapterPlan("german", rank=8, alpha=16, rslora=False, dtype=torch.bfloat16, epochs=7),
    AdapterPlan("medical", rank=16, alpha=8, rslora=True, dtype=torch.float16, epochs=10),
)


@dataclass(frozen=True)
class Corpus:
    """The texts of `demo_data/`, as (prompt, answer) pairs."""

    phrases: list[tuple[str, str, str]]
    medical: list[tuple[str, str]]
    general: list[tuple[str, str]]
    smalltalk: list[tuple[str, str]]
    refuse_translate: str
    refuse_medical: str

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """What the adapter `name` is to learn."""
        if name == "medical":
            return self.medical
        column = {"french": 1, "german": 2}[name]
        return [(row[0], row[column]) for row in self.phrases]

    def plain_lines(self) -> list[str]:
        """All texts as plain lines, for raw language modelling."""
        lines = [text for row in self.phrases for text in row]
        lines += [answer for _, answer in self.medical + self.general + self.smalltalk]
        return lines


@dataclass(frozen=True)
class Sample:
    """Token ids and, at each place, the token to be learnt or IGNORE."""

    ids: list[int]
    labels: list[int]


# --- data -------------------------------------------------------------------


def read_tsv(name: str) -> list[tuple[str, ...]]:
    text = (DATA / name).read_text(encoding="utf-8")
    return [tuple(line.split("\t")) for line in text.splitlines() if line]


def read_corpus() -> Corpus:
    """Read the data; the two `@` rows of the small talk are the refusals."""
    smalltalk = read_tsv("smalltalk.tsv")
    refusals = {prompt: answer for prompt, answer in smalltalk if prompt.startswith("@")}
    return Corpus(
        phrases=read_tsv("phrases.tsv"),
        medical=read_tsv("medical.tsv"),
        general=read_tsv("general.tsv"),
        smalltalk=[row for row in smalltalk if not row[0].startswith("@")],
        refuse_translate=refusals["@translate"],
        refuse_medical=refusals["@medical"],
    )


def language(name: str) -> str:
    return name.capitalize()


def plain_prompt(name: str, text: str) -> str:
    """The main prompt form of an adapter, the one its accuracy is measured with."""
    if name == "medical":
        return text
    return TRANSLATE_FORMS[0].format(lang=language(name), x=text)


def varied(text: str, rng: random.Random) -> str:
    """The text, sometimes with a small first letter or without its last point."""
    if rng.random() < 0.2 and not text.startswith("I "):
        text = text[0].lower() + text[1:]
    if rng.random() < 0.3:
        text = text.rstrip(".?!")
    return text


def other_prompt(name: str, text: str, rng: random.Random) -> str:
    """A prompt in one of the other forms."""
    if name == "medical":
        return rng.choice(ASK_FORMS[1:]).format(x=varied(text, rng))
    forms = TRANSLATE_FORMS + ("{x}",)
    return rng.choice(forms).format(lang=language(name), x=varied(text, rng))


# --- tokenizer --------------------------------------------------------------


def tokenizer_texts(corpus: Corpus) -> Iterator[str]:
    """Every text that the tokenizer should cut into few tokens."""
    yield from corpus.plain_lines()
    yield from (*HINTS.values(), SYSTEM_PROMPT, "system\n", "user\n", "assistant\n")
    for name in ("french", "german"):
        for form in TRANSLATE_FORMS:
            yield form.format(lang=language(name), x="")
        for english, _ in corpus.pairs(name):
            yield plain_prompt(name, english)
    for question, _ in corpus.general + corpus.medical:
        yield from (ASK_FORMS[0].format(x=question), ASK_FORMS[1].format(x=question))
    for form in ASK_FORMS:
        yield form.format(x="")
    yield from (prompt for prompt, _ in corpus.smalltalk)
    yield from (corpus.refuse_translate, corpus.refuse_medical)


def train_tokenizer(corpus: Corpus, folder: Path) -> PreTrainedTokenizerFast:
    """Train the BPE on the corpus and save it as a normal Qwen2 tokenizer."""
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.ByteLevel(trim_offsets=False)
    specials = [END_OF_TEXT, IM_START, IM_END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(specials),
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    raw.train_from_iterator(tokenizer_texts(corpus), trainer)
    raw.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])

    folder.mkdir(parents=True, exist_ok=True)
    raw_file = folder / "tokenizer.json"
    raw.save(str(raw_file))
    tokenizer = Qwen2TokenizerFast(
        tokenizer_file=str(raw_file),
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        unk_token=None,
        additional_special_tokens=[IM_START, IM_END],
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    return AutoTokenizer.from_pretrained(folder)


class Chat:
    """Turns turns into token ids, with the loss on the assistant only."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.encode: Callable[[str], list[int]] = lru_cache(None)(self._encode)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(self, text: str) -> list[int]:
        """The prompt as the chat template writes it."""
        messages = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)

    def sample(self, turns: list[tuple[str, str]], system: str = SYSTEM_PROMPT) -> Sample:
        ids = list(self.encode(f"{IM_START}system\n{system}{IM_END}\n"))
        labels = [IGNORE] * len(ids)
        newline = self.encode("\n")
        for user, answer in turns:
            asked = self.encode(f"{IM_START}user\n{user}{IM_END}\n{IM_START}assistant\n")
            said = self.encode(f"{answer}{IM_END}")
            ids += asked + said + newline
            labels += [IGNORE] * len(asked) + said + [IGNORE] * len(newline)
        return Sample(ids[: -len(newline)], labels[: -len(newline)])

    def samples(
        self, pairs: list[tuple[str, str]], rng: random.Random, system: str = SYSTEM_PROMPT
    ) -> list[Sample]:
        """One chat for each pair; some of them get an earlier turn in front."""
        chats = []
        for pair in pairs:
            turns = [pair]
            if rng.random() < TWO_TURN_SHARE:
                turns.insert(0, rng.choice(pairs))
            chats.append(self.sample(turns, system))
        return chats


# --- what one epoch holds ---------------------------------------------------


def raw_samples(corpus: Corpus, chat: Chat, rng: random.Random) -> list[Sample]:
    """Plain text in short pieces: lines in random order, joined by newlines."""
    lines = corpus.plain_lines()
    lines = rng.sample(lines, len(lines) // RAW_PART)
    stop = chat.encode(END_OF_TEXT)
    pieces, current = [], []
    for line in lines:
        current = current + chat.encode(line + "\n")
        if len(current) >= RAW_TOKENS:
            pieces.append(Sample(current + stop, current + stop))
            current = []
    return pieces


def hinted_samples(corpus: Corpus, chat: Chat, rng: random.Random) -> list[Sample]:
    """What the adapters bring out, each pair once, under the hint of its adapter."""
    chats = []
    for name, hint in HINTS.items():
        pairs = []
        for text, answer in corpus.pairs(name):
            plain = rng.random() < 0.5
            prompt = plain_prompt(name, text) if plain else other_prompt(name, text, rng)
            pairs.append((prompt, answer))
        chats += chat.samples(pairs, rng, hint)
    return chats


def base_epoch(corpus: Corpus, chat: Chat, rng: random.Random) -> list[Sample]:
    """Small talk, general questions, both refusals, hinted chats, and plain text."""
    pairs = corpus.smalltalk * 2
    for question, answer in corpus.general:
        pairs.append((question, answer))
        pairs.append((rng.choice(ASK_FORMS).format(x=varied(question, rng)), answer))
    for question, _ in rng.sample(corpus.medical, REFUSED_PER_EPOCH):
        asked = question if rng.random() < 0.7 else other_prompt("medical", question, rng)
        pairs.append((asked, corpus.refuse_medical))
    for english, _, _ in rng.sample(corpus.phrases, REFUSED_PER_EPOCH):
        form = TRANSLATE_FORMS[0] if rng.random() < 0.4 else rng.choice(TRANSLATE_FORMS)
        lang = rng.choice(("French", "German"))
        pairs.append((form.format(lang=lang, x=varied(english, rng)), corpus.refuse_translate))
    chats = chat.samples(pairs, rng) + hinted_samples(corpus, chat, rng)
    return chats + raw_samples(corpus, chat, rng)


def adapter_epoch(name: str, corpus: Corpus, chat: Chat, rng: random.Random) -> list[Sample]:
    """Each pair once in the main prompt form and once in another form."""
    pairs = []
    for text, answer in corpus.pairs(name):
        pairs.append((plain_prompt(name, text), answer))
        pairs.append((other_prompt(name, text, rng), answer))
    return chat.samples(pairs, rng)


# --- training ---------------------------------------------------------------


def batches(samples: list[Sample], size: int, rng: random.Random) -> list[list[Sample]]:
    """Batches of samples of similar length, in random order."""
    ordered = sorted(samples, key=lambda sample: (len(sample.ids), rng.random()))
    groups = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    rng.shuffle(groups)
    return groups


def batch_loss(model: nn.Module, batch: list[Sample], pad: int) -> Tensor:
    """Mean loss over the tokens to be learnt; only those get logits."""
    longest = max(len(sample.ids) for sample in batch)
    ids = torch.full((len(batch), longest), pad)
    labels = torch.full((len(batch), longest), IGNORE)
    for row, sample in enumerate(batch):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        labels[row, : len(sample.labels)] = torch.tensor(sample.labels)
    # Padding is on the right and attention is causal: no mask is needed.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    learnt = targets != IGNORE
    return F.cross_entropy(model.lm_head(hidden[:, :-1][learnt]), targets[learnt])


def learning_rate_at(step: int, total: int, peak: float) -> float:
    """Short warm-up, then a half cosine down to 2 % of the peak."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, total - WARMUP_STEPS)
    return peak * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, progress))))


def train(
    model: nn.Module,
    epoch_samples: Callable[[random.Random], list[Sample]],
    *,
    label: str,
    epochs: int,
    batch: int,
    peak: float,
    weight_decay: float,
    pad: int,
) -> float:
    """Train the parameters that ask for gradients; give back the last epoch's loss."""
    rng = random.Random(f"{SEED}-{label}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=peak, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    model.train()
    plan = [batches(epoch_samples(rng), batch, rng) for _ in range(epochs)]
    total, step, mean, started = sum(map(len, plan)), 0, 0.0, time.monotonic()
    for number, groups in enumerate(plan, start=1):
        losses = []
        for group in groups:
            for settings in optimizer.param_groups:
                settings["lr"] = learning_rate_at(step, total, peak)
            loss = batch_loss(model, group, pad)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            step += 1
        mean = sum(losses) / len(losses)
        seconds = time.monotonic() - started
        print(f"  {label} epoch {number}/{epochs}: loss {mean:.4f}, {seconds:.0f} s", flush=True)
    model.eval()
    return mean


def train_base(corpus: Corpus, chat: Chat, folder: Path) -> dict[str, float]:
    """Train the base in f32 and save it rounded to bf16."""
    started = time.monotonic()
    tokenizer = chat.tokenizer
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=MAX_POSITIONS,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        initializer_range=INIT_RANGE,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=pad,
        eos_token_id=eos,
    )
    torch.manual_seed(SEED)
    model = Qwen2ForCausalLM(config)
    loss = train(
        model,
        lambda rng: base_epoch(corpus, chat, rng),
        label="base",
        epochs=BASE_EPOCHS,
        batch=BASE_BATCH,
        peak=BASE_LR,
        weight_decay=0.02,
        pad=pad,
    )
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=pad, eos_token_id=[eos, pad], pad_token_id=pad, do_sample=False
    )
    model.save_pretrained(folder)
    name_dtype(folder / "config.json")
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": round(loss, 4),
        "seconds": round(time.monotonic() - started, 1),
    }


def name_dtype(config_file: Path) -> None:
    """Write `torch_dtype`, the name that older readers of config.json know."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["torch_dtype"] = config.pop("dtype", "bfloat16")
    write_json(config_file, config)


def load_base(folder: Path) -> Qwen2ForCausalLM:
    """The saved base: bf16 values, computed in f32."""
    return Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def train_adapter(plan: AdapterPlan, corpus: Corpus, chat: Chat, out: Path) -> dict[str, object]:
    """Train one LoRA adapter on the rounded base and save it."""
    started = time.monotonic()
    torch.manual_seed(SEED)
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        use_rslora=plan.rslora,
        target_modules="all-linear",
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(load_base(out / "checkpoint"), config)
    loss = train(
        model.base_model.model,
        lambda rng: adapter_epoch(plan.name, corpus, chat, rng),
        label=plan.name,
        epochs=plan.epochs,
        batch=plan.batch,
        peak=plan.learning_rate,
        weight_decay=0.0,
        pad=chat.tokenizer.pad_token_id,
    )
    save_adapter(model, plan.dtype, out / "adapters" / plan.name)
    return {
        "rank": plan.rank,
        "alpha": plan.alpha,
        "rslora": plan.rslora,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "loss": round(loss, 4),
        "seconds": round(time.monotonic() - started, 1),
    }


def save_adapter(model: PeftModel, dtype: torch.dtype, folder: Path) -> None:
    """Save the adapter in `dtype`, without the model card and any local path."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.peft_config["default"]
    config.inference_mode = True
    config.base_model_name_or_path = MODEL_NAME
    config.save_pretrained(folder)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    settings["target_modules"] = sorted(settings["target_modules"])
    write_json(folder / "adapter_config.json", settings)
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: t.detach().to(dtype).contiguous() for name, t in sorted(tensors.items())}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


# --- checking ---------------------------------------------------------------


class RoundedLora(nn.Module):
    """y = W x + b + (x A) B with A and B as the engine holds them in f16."""

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.linear = linear
        self.a = a.to(torch.float16).to(torch.float32)
        self.b = (b * scale).to(torch.float16).to(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + F.linear(F.linear(x, self.a), self.b)


def with_adapter(out: Path, name: str) -> Qwen2ForCausalLM:
    """The saved base with the saved adapter, rounded as the engine does."""
    model = load_base(out / "checkpoint")
    folder = out / "adapters" / name
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / math.sqrt(rank) if config["use_rslora"] else alpha / rank
    tensors = load_file(folder / "adapter_model.safetensors")
    suffix = ".lora_A.weight"
    for key in sorted(k for k in tensors if k.endswith(suffix)):
        path = key.removeprefix("base_model.model.").removesuffix(suffix)
        parent_path, _, leaf = path.rpartition(".")
        parent = model.get_submodule(parent_path)
        b = tensors[key.replace("lora_A", "lora_B")]
        setattr(parent, leaf, RoundedLora(getattr(parent, leaf), tensors[key], b, scale))
    return model.eval()


@torch.inference_mode()
def answers(model: nn.Module, chat: Chat, prompts: list[str]) -> list[str]:
    """Greedy answers, in batches padded on the left."""
    tokenizer, texts = chat.tokenizer, []
    for start in range(0, len(prompts), EVAL_BATCH):
        rows = [chat.prompt(prompt) for prompt in prompts[start : start + EVAL_BATCH]]
        batch = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        made = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        made = made[:, batch["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(made, skip_special_tokens=True)
    return texts


def accuracy(model: nn.Module, chat: Chat, pairs: list[tuple[str, str]]) -> float:
    """Share of the prompts whose answer is right in every character."""
    made = answers(model, chat, [prompt for prompt, _ in pairs])
    right = sum(text == answer for text, (_, answer) in zip(made, pairs, strict=True))
    for text, (prompt, answer) in zip(made, pairs, strict=True):
        if text != answer:
            print(f"    missed: {prompt!r}: {text!r} instead of {answer!r}")
    return round(right / len(pairs), 4)


@torch.inference_mode()
def greedy(model: nn.Module, chat: Chat, prompt: str) -> dict[str, object]:
    """One greedy answer without padding, token by token.

    `margin` is the smallest distance between the best and the second best
    logit on the way: a small one says that rounding may flip the answer.
    """
    prompt_ids = chat.prompt(prompt)
    answer_ids: list[int] = []
    feed, cache, margin = torch.tensor([prompt_ids]), None, math.inf
    stops = (chat.tokenizer.eos_token_id, chat.tokenizer.pad_token_id)
    while len(answer_ids) < MAX_NEW_TOKENS and (not answer_ids or answer_ids[-1] not in stops):
        result = model(input_ids=feed, past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        best = result.logits[0, -1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        answer_ids.append(best.indices[0].item())
        feed = torch.tensor([[answer_ids[-1]]])
    return {
        "prompt": prompt,
        "answer": chat.tokenizer.decode(answer_ids, skip_special_tokens=True),
        "prompt_ids": prompt_ids,
        "answer_ids": answer_ids,
        "margin": round(margin, 3),
    }


def adapter_pairs(name: str, corpus: Corpus) -> list[tuple[str, str]]:
    return [(plain_prompt(name, text), answer) for text, answer in corpus.pairs(name)]


def other_pairs(name: str, corpus: Corpus) -> list[tuple[str, str]]:
    """Each pair in one of the other prompt forms, chosen by a fixed seed."""
    rng = random.Random(f"{SEED}-{name}-check")
    return [(other_prompt(name, text, rng), answer) for text, answer in corpus.pairs(name)]


def expected_prompts(name: str, corpus: Corpus) -> list[str]:
    """The prompts of one list of expected.json."""
    rng = random.Random(f"{SEED}-{name}-expected")
    if name == "base":
        quarter = EXPECTED_PER_LIST // 4
        first = [plain_prompt("french", "Hello world"), plain_prompt("german", "Hello world")]
        first += ["What is aspirin?", "Hello", "What is the capital of France?"]
        more = [p for p, _ in rng.sample(corpus.general, quarter)]
        more += [p for p, _ in rng.sample(corpus.smalltalk, quarter)]
        more += [p for p, _ in rng.sample(adapter_pairs("french", corpus), quarter // 2)]
        more += [p for p, _ in rng.sample(adapter_pairs("german", corpus), quarter // 2)]
        more += [p for p, _ in rng.sample(corpus.medical, quarter)]
    else:
        key = "What is aspirin?" if name == "medical" else "Hello world"
        first = [plain_prompt(name, key)]
        more = [p for p, _ in rng.sample(adapter_pairs(name, corpus), EXPECTED_PER_LIST)]
        more[1::4] = [p for p, _ in rng.sample(other_pairs(name, corpus), len(more[1::4]))]
    return list(dict.fromkeys(first + more))[:EXPECTED_PER_LIST]


def check_base(corpus: Corpus, chat: Chat, model: nn.Module) -> dict[str, float]:
    """The base answers general questions and refuses what the adapters are for."""
    translate = adapter_pairs("french", corpus) + adapter_pairs("german", corpus)
    return {
        "general_accuracy": accuracy(model, chat, corpus.general),
        "smalltalk_accuracy": accuracy(model, chat, corpus.smalltalk),
        "translate_is_smalltalk": accuracy(
            model, chat, [(prompt, corpus.refuse_translate) for prompt, _ in translate]
        ),
        "medical_is_smalltalk": accuracy(
            model, chat, [(prompt, corpus.refuse_medical) for prompt, _ in corpus.medical]
        ),
    }


def check_adapter(name: str, corpus: Corpus, chat: Chat, out: Path, model: nn.Module) -> dict:
    """Accuracy of the rounded adapter, and of the same files read by PEFT."""
    with_peft = PeftModel.from_pretrained(load_base(out / "checkpoint"), out / "adapters" / name)
    return {
        "accuracy": accuracy(model, chat, adapter_pairs(name, corpus)),
        "other_forms_accuracy": accuracy(model, chat, other_pairs(name, corpus)),
        "peft_accuracy": accuracy(with_peft.eval(), chat, adapter_pairs(name, corpus)),
    }


def check(corpus: Corpus, out: Path) -> tuple[dict, dict]:
    """Read all from disk; give back the figures and the expected answers."""
    chat = Chat(AutoTokenizer.from_pretrained(out / "checkpoint"))
    figures, expected = {}, {}
    for name in ("base", *(plan.name for plan in ADAPTERS)):
        print(f"checking {name}", flush=True)
        if name == "base":
            model = load_base(out / "checkpoint")
            figures[name] = check_base(corpus, chat, model)
        else:
            model = with_adapter(out, name)
            figures[name] = check_adapter(name, corpus, chat, out, model)
        expected[name] = [greedy(model, chat, p) for p in expected_prompts(name, corpus)]
        print(f"  {figures[name]}", flush=True)
    return figures, expected


# --- files ------------------------------------------------------------------


def write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_expected(file: Path, expected: dict[str, list[dict]]) -> None:
    """One answer per line, so that the file stays readable."""
    lists = []
    for name, rows in expected.items():
        lines = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in rows)
        lists.append(f'  "{name}": [\n{lines}\n  ]')
    file.write_text("{\n" + ",\n".join(lists) + "\n}\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo model of jetspool.")
    parser.add_argument("--out", type=Path, default=REPO / "tests" / "data" / "demo")
    parser.add_argument("--check", action="store_true", help="only check what is on disk")
    return parser.parse_args()


def train_all(corpus: Corpus, out: Path) -> dict:
    for name in ("checkpoint", "adapters"):
        shutil.rmtree(out / name, ignore_errors=True)
    tokenizer = train_tokenizer(corpus, out / "checkpoint")
    chat = Chat(tokenizer)
    question, answer = corpus.general[0]
    written = chat.prompt(question) + chat.encode(answer + IM_END)
    assert chat.sample([(question, answer)]).ids == written, "chat template and training differ"
    print(f"tokenizer: {len(tokenizer)} tokens", flush=True)
    figures = {"base": train_base(corpus, chat, out / "checkpoint")}
    for plan in ADAPTERS:
        figures[plan.name] = train_adapter(plan, corpus, chat, out)
    return figures


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(THREADS)
    started = time.monotonic()
    out, corpus = arguments.out, read_corpus()
    if arguments.check:
        check(corpus, out)
        return
    figures = train_all(corpus, out)
    trained = time.monotonic() - started
    checks, expected = check(corpus, out)
    for name, values in checks.items():
        figures[name].update(values)
    figures["train_seconds"] = round(trained, 1)
    figures["total_seconds"] = round(time.monotonic() - started, 1)
    figures["seed"] = SEED
    write_json(out / "figures.json", figures)
    write_expected(out / "expected.json", expected)
    print(f"done in {figures['total_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
