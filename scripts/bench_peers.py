"""jetspool beside llama.cpp, ik_llama.cpp and EdgeLoRA on this machine: scripts/bench-peers starts it and says more."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import peers  # noqa: E402
from plot import plot  # noqa: E402

SHAPES = ["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen3-0.6b", "llama-3.2-1b"]
# Our precision and the type of theirs that is meant for the same use.
PRECISIONS = {"f16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
ADAPTERS = {"": (0, 0), "-r16": (1, 16), "-r64": (1, 64), "-8xr16": (8, 16)}
N_STEPS = 32
# llama.cpp's llama-bench and llama-batched-bench, which say whether the driver is right. They take no adapters.
OWN_TOOLS = "its own tools"
# A figure counts if other programs took at most so much of a processor meanwhile; else it is taken again, a few times.
MAX_DISTURBANCE = 0.05
MAX_TRIES = 4
QUIET_SECONDS = 60
# Tokens that a sequence holds when decoding begins; ours stays in the middle of the steps that theirs goes through.
PAST = 128


@dataclass(frozen=True)
class Case:
    name: str

    @property
    def mode(self) -> str:
        return "decode" if self.name.startswith("decode") else "prefill"

    @property
    def n(self) -> int:
        """Sequences of decode8, tokens of prefill512."""
        return int(self.name.removeprefix(self.mode).split("-")[0])

    @property
    def adapters(self) -> tuple[int, int]:
        """How many, and their rank."""
        return ADAPTERS[self.name[len(f"{self.mode}{self.n}") :]]

    @property
    def batch(self) -> int:
        return self.n if self.mode == "decode" else 1

    @property
    def words(self) -> str:
        what = f"decode, batch {self.n}" if self.mode == "decode" else f"prefill {self.n}"
        count, rank = self.adapters
        return what + ("" if not count else f", {'8 adapters' if count > 1 else 'adapter'} rank {rank}")


CASES = [f"{what}{kind}" for what in ("decode1", "decode8", "prefill512", "prefill4096") for kind in list(ADAPTERS)[:3]]
CASES.insert(6, "decode8-8xr16")


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.llama = peers.llama_cpp(self.work)
        given = dict(options.source)
        wanted = [peers.cloned(name, self.work, given.get(name)) for name in peers.ORIGINS if name in options.peers]
        self.peers = [self.llama] * ("llama.cpp" in options.peers) + [peer for peer in wanted if peer]
        self.read_rates: list[float] = []
        self.results: dict[tuple, list[dict]] = {}
        self.memory: dict[tuple, list[tuple[int, int]]] = {}

    # What is measured.

    def engine(self, shape: str, precision: str) -> Path:
        return self.work / "engines" / f"{shape}-{precision}"

    def gguf(self, shape: str, precision: str) -> Path:
        return self.work / "models" / f"{shape}-{PRECISIONS[precision].lower()}.gguf"

    def adapter(self, shape: str, rank: int, index: int) -> Path:
        return self.work / "adapters" / f"{shape}-r{rank}-{index}"

    def prepare(self, shape: str) -> None:
        checkpoint, f16 = self.work / "checkpoints" / shape, self.gguf(shape, "f16")
        f16.parent.mkdir(exist_ok=True)
        if not (checkpoint / "tokenizer_config.json").exists() or not f16.exists():
            peers.say(f"making {shape}")
            part = f16.with_suffix(".part")
            self.python("make_random_checkpoint.py", "--shape", shape, "--out", checkpoint, "--gguf", part)
            part.rename(f16)
        for precision in self.options.precisions:
            self.prepare_precision(shape, precision, checkpoint)
        for case in self.options.cases:
            count, rank = Case(case).adapters
            for index in range(count):
                self.prepare_adapter(shape, rank, index, checkpoint)

    def prepare_precision(self, shape: str, precision: str, checkpoint: Path) -> None:
        model, engine = self.gguf(shape, precision), self.engine(shape, precision)
        if not model.exists():
            part = model.with_suffix(".part")
            peers.run([self.llama.bin / "llama-quantize", self.gguf(shape, "f16"), part, PRECISIONS[precision], "2"],
                      self.work / "quantize.log")  # fmt: skip
            part.rename(model)
        # The program may have changed since: an engine of an older format is not tried.
        program = self.options.jetspool.stat().st_mtime
        file = engine / "llm.engine"
        if not file.exists() or file.stat().st_mtime < program:
            peers.run([self.options.jetspool, "build", "--modelDir", checkpoint, "--engineDir", engine, "--precision",
                       precision, "--maxBatchSize", 8, "--maxInputLen", 4096, "--maxKVCacheCapacity", 4352,
                       "--maxLoraRank", 64], self.work / "build.log")  # fmt: skip

    def prepare_adapter(self, shape: str, rank: int, index: int, checkpoint: Path) -> None:
        adapter = self.adapter(shape, rank, index)
        processed = adapter / "processed"
        if (processed / "processed_adapter_model.safetensors").exists():
            return
        self.python("make_random_adapter.py", "--model", checkpoint, "--rank", rank, "--seed", index + 1, "--out",
                    adapter, "--gguf", adapter / "adapter.gguf")  # fmt: skip
        peers.run([self.options.jetspool, "process-lora", "--input_dir", adapter, "--output_dir", processed],
                  self.work / "process.log")  # fmt: skip

    def python(self, script: str, *words) -> None:
        peers.run([sys.executable, HERE / script, *words], self.work / "make.log")

    # How it is measured.

    def command(self, program: str, shape: str, precision: str, case: Case, n_steps: int) -> list:
        count, rank = case.adapters
        folders = [self.adapter(shape, rank, index) for index in range(count)]
        threads = self.options.threads
        if program == "jetspool":
            length = ["--pastKVLen", PAST + n_steps // 2] if case.mode == "decode" else ["--inputLen", case.n]
            command = [self.options.jetspool, "bench", "--engineDir", self.engine(shape, precision), "--mode",
                       case.mode, "--batchSize", case.batch, *length, "--iterations", n_steps, "--threads", threads,
                       "--json"]  # fmt: skip
            for folder in folders:
                command += ["--lora", folder / "processed" / "processed_adapter_model.safetensors"]
            return command
        peer = next(peer for peer in self.peers if peer.name == program)
        length = PAST if case.mode == "decode" else case.n
        adapters = [folder / "adapter.gguf" for folder in folders]
        return [peer.driver, self.gguf(shape, precision), threads, case.mode, case.batch, length, n_steps, *adapters]

    def measure(self, program: str, shape: str, precision: str, case: Case) -> None:
        for attempt in range(MAX_TRIES):
            wait_for_quiet()
            clock = Disturbance()
            found = self.measure_once(program, shape, precision, case)
            found["disturbance"] = clock.share()
            if found["disturbance"] <= MAX_DISTURBANCE or attempt == MAX_TRIES - 1:
                self.results.setdefault((shape, precision, case.name, program), []).append(found)
                break

    def measure_once(self, program: str, shape: str, precision: str, case: Case) -> dict:
        n_steps = N_STEPS if case.mode == "decode" else 2 if case.n <= 512 else 1
        if program == OWN_TOOLS:
            return self.measure_own_tools(shape, precision, case)
        command = self.command(program, shape, precision, case, n_steps)
        # The read rate is the same in every case: once a round and precision is enough.
        asks_rate = program == "jetspool" and case.name == self.options.cases[0]
        if program == "jetspool" and not asks_rate:
            command.append("--noReadRate")
        found = json.loads(self.text(command))
        if program == "jetspool":
            if asks_rate:
                self.read_rates.append(found["read_bandwidth_gb_per_second"])
            # Theirs is a mean too.
            found["tokens_per_second"] *= found["step_ms"]["median"] / found["step_ms"]["mean"]
            found["step_ms"] = found["step_ms"]["mean"]
        return found

    def measure_own_tools(self, shape: str, precision: str, case: Case) -> dict:
        model, threads = self.gguf(shape, precision), self.options.threads
        if case.mode == "decode" and case.batch > 1:
            command = [self.llama.bin / "llama-batched-bench", "-m", model, "-t", threads, "-npp", PAST, "-ntg", N_STEPS,
                       "-npl", case.batch, "-c", case.batch * (PAST + N_STEPS), "--output-format", "jsonl"]  # fmt: skip
            # Among words for people there is one line of JSON.
            speed = json.loads(re.search(r"\{.*\}", self.text(command))[0])["speed_tg"]
        else:
            sizes = ["-p", 0, "-n", N_STEPS, "-d", PAST] if case.mode == "decode" else ["-p", case.n, "-n", 0]
            command = [self.llama.bin / "llama-bench", "-m", model, "-t", threads, *sizes, "-r", 1, "-o", "json"]
            speed = json.loads(self.text(command))[0]["avg_ts"]
        n_tokens = case.batch if case.mode == "decode" else case.n
        return {"tokens_per_second": speed, "step_ms": n_tokens / speed * 1e3}

    def text(self, command: list) -> str:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
        return done.stdout

    def measure_memory(self, program: str, shape: str, precision: str) -> None:
        """The largest of file-backed and of anonymous memory that are seen while a few tokens are decoded."""
        command = self.command(program, shape, precision, Case("decode1"), 8)
        if program == "jetspool":
            command.append("--noReadRate")
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
        peak_file = peak_anonymous = 0
        while process.poll() is None:
            try:
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                kib = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
                peak_file = max(peak_file, kib["Rss"] - kib["Anonymous"])
                peak_anonymous = max(peak_anonymous, kib["Anonymous"])
            except (OSError, KeyError, IndexError):
                pass
            time.sleep(0.01)
        self.memory.setdefault((shape, precision, program), []).append((peak_file << 10, peak_anonymous << 10))

    def run(self) -> dict:
        programs = ["jetspool", *(peer.name for peer in self.peers)]
        shown = programs + [OWN_TOOLS] * self.options.own_tools
        for shape in self.options.shapes:
            self.prepare(shape)
            # Times are of a warm page cache.
            for round_index in range(self.options.rounds):
                peers.say(f"{shape}: round {round_index + 1} of {self.options.rounds}")
                for precision in self.options.precisions:
                    for case in self.options.cases:
                        # Who is first takes turns too.
                        order = programs if round_index % 2 == 0 else programs[::-1]
                        for program in order:
                            self.measure(program, shape, precision, Case(case))
                        if self.options.own_tools and not Case(case).adapters[0]:
                            self.measure(OWN_TOOLS, shape, precision, Case(case))
                    if not self.options.no_memory:
                        for program in programs:
                            self.measure_memory(program, shape, precision)
                # Whoever stops it keeps the rounds so far.
                if self.options.json:
                    self.options.json.write_text(json.dumps(self.report(shown), indent=2) + "\n")
        return self.report(shown)

    def report(self, programs: list[str]) -> dict:
        rate = statistics.median(self.read_rates)
        results = []
        for (shape, precision, case, program), rounds in self.results.items():
            figures = {name: statistics.median(found[name] for found in rounds)
                       for name in ("tokens_per_second", "step_ms", "load_ms", "first_step_ms") if name in rounds[0]}  # fmt: skip
            speeds = [found["tokens_per_second"] for found in rounds]
            n_bytes = rounds[0].get("bytes_per_step") or self.gguf(shape, precision).stat().st_size
            results.append({"shape": shape, "precision": precision, "case": case, "program": program, **figures,
                            "tokens_per_second_of_rounds": speeds,
                            "disturbance_of_rounds": [found["disturbance"] for found in rounds],
                            "share_of_read_rate": n_bytes / figures["step_ms"] / 1e6 / rate
                            if case.startswith("decode") else None})  # fmt: skip
        memory = []
        for (shape, precision, program), rounds in self.memory.items():
            files, anonymous = (statistics.median(column) for column in zip(*rounds))
            memory.append({"shape": shape, "precision": precision, "program": program, "file_bytes": files,
                           "anonymous_bytes": anonymous})  # fmt: skip
        processor, features = peers.processor()
        used = [feature for feature, _, _ in peers.FEATURES if feature in features]
        return {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "processor": processor,
                "features": used, "threads": self.options.threads,
                # Whoever stops it has done fewer than were asked for.
                "rounds": min(len(rounds) for rounds in self.results.values()),
                "read_rate_gb_per_second": rate, "commit": commit(), "programs": programs,
                "peers": {peer.name: peer.version for peer in self.peers}, "results": results, "memory": memory}  # fmt: skip


class Disturbance:
    """What other programs take of a processor, since it was made."""

    def __init__(self) -> None:
        self.begin, self.busy, self.own = time.monotonic(), busy_seconds(), own_seconds()

    def share(self) -> float:
        others = (busy_seconds() - self.busy) - (own_seconds() - self.own)
        return max(others, 0) / (time.monotonic() - self.begin)


def busy_seconds() -> float:
    """Of all processors: user, nice, system, interrupts."""
    user, nice, system, _, _, interrupt, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + interrupt + soft) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Of this program and of what it ran."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def wait_for_quiet() -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < QUIET_SECONDS:
        clock = Disturbance()
        time.sleep(0.5)
        if clock.share() <= MAX_DISTURBANCE:
            return


def commit() -> str:
    """Of the sources, with a mark where they were changed since."""
    words = ["git", "-C", HERE, "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "unknown"


def grouped(report: dict) -> dict:
    """Shape and case and precision to what each program did."""
    groups: dict[tuple, dict[str, dict]] = {}
    for result in report["results"]:
        key = (result["shape"], result["case"], result["precision"])
        groups.setdefault(key, {})[result["program"]] = result
    order = {case: i for i, case in enumerate(CASES)}
    kinds = {precision: i for i, precision in enumerate(PRECISIONS)}
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], order[item[0][1]], kinds[item[0][2]])))


def print_tables(report: dict) -> None:
    bold, plain = ("\x1b[1;36m", "\x1b[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    theirs = report["programs"][1:]
    print(f"{report['processor']}, {report['threads']} threads, reads {report['read_rate_gb_per_second']:.1f} GB/s; "
          f"medians of {report['rounds']} rounds, tokens/s; commit {report['commit']}")  # fmt: skip
    shares = [share for result in report["results"] for share in result["disturbance_of_rounds"]]
    if disturbed := [share for share in shares if share > MAX_DISTURBANCE]:
        print(f"NOT QUIET: in {len(disturbed)} of {len(shares)} measurements others took up to {max(disturbed):.0%} of a "
              "processor: what follows says little")  # fmt: skip
    groups = grouped(report)
    for shape in dict.fromkeys(key[0] for key in groups):
        print(f"\n{bold}{shape}{plain}")
        heads = "".join(f"{name:>14} {'ratio':>6}" for name in theirs)
        print(f"   {'':<36} {'':<11} {'jetspool':>9} {'of rate':>8}{heads}   {'load ms':>9}")
        for (of, case, precision), found in groups.items():
            if of == shape:
                print_row(Case(case), precision, found, theirs)
        print_memory(report, shape)


def print_row(case: Case, precision: str, found: dict, theirs: list[str]) -> None:
    ours = found["jetspool"]
    share = ours["share_of_read_rate"]
    line = f"   {case.words:<36} {precision + '/' + PRECISIONS[precision]:<11} {ours['tokens_per_second']:>9.1f} "
    line += f"{share:>8.0%}" if share else f"{'':>8}"
    for name in theirs:
        if name in found:
            speed = found[name]["tokens_per_second"]
            line += f"{speed:>14.1f} {ours['tokens_per_second'] / speed:>6.2f}"
        else:
            line += f"{'':>21}"
    loads = "/".join(f"{found[name]['load_ms']:.0f}" for name in ["jetspool", *theirs] if "load_ms" in found.get(name, {}))
    print(f"{line}   {loads:>9}")


def print_memory(report: dict, shape: str) -> None:
    lines = [line for line in report["memory"] if line["shape"] == shape]
    if lines:
        print(f"   {'peak MiB, decoding alone':<36} {'':<11} {'files':>9} {'anonymous':>10}")
    for line in lines:
        kind = PRECISIONS[line["precision"]] if line["program"] != "jetspool" else line["precision"]
        files, anonymous = line["file_bytes"] / 2**20, line["anonymous_bytes"] / 2**20
        print(f"   {line['program']:<36} {kind:<11} {files:>9.0f} {anonymous:>10.0f}")


def make_plot(report: dict) -> str:
    sections = []
    groups = grouped(report)
    for shape in dict.fromkeys(key[0] for key in groups):
        for mode in ("decode", "prefill"):
            bars = [(f"{Case(case).words}, {precision}", {name: one["tokens_per_second"] for name, one in found.items()})
                    for (of, case, precision), found in groups.items()
                    if of == shape and case.startswith(mode)]  # fmt: skip
            if bars:
                sections.append((f"{shape}: {mode}, tokens per second", bars))
    versions = ", ".join(f"{name} {version}" for name, version in report["peers"].items())
    notes = [f"{report['processor']}, {report['threads']} threads, read rate {report['read_rate_gb_per_second']:.1f} GB/s; "
             f"medians of {report['rounds']} alternating rounds, {report['date'][:10]}, commit {report['commit']}",
             f"f16, int8, int4 beside F16, Q8_0, Q4_0; {versions}; in brackets: jetspool's speed as a multiple"]  # fmt: skip
    return plot("jetspool beside its peers", notes, report["programs"], sections)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench-peers", description="jetspool beside programs of its kind")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")

    def some(known: list[str]):
        def parse(text: str) -> list[str]:
            words = text.split(",")
            if unknown := [word for word in words if word not in known]:
                raise argparse.ArgumentTypeError(f"{unknown[0]}: not one of {', '.join(known)}")
            return words

        return parse

    def copy(text: str) -> list[str]:
        name, _, directory = text.partition("=")
        if name not in peers.ORIGINS or not directory:
            raise argparse.ArgumentTypeError(f"{text}: wanted {' or '.join(f'{name}=DIR' for name in peers.ORIGINS)}")
        return [name, directory]

    def add_list(name: str, known: list[str], default: list[str], words: str) -> None:
        parser.add_argument(name, type=some(known), default=default, metavar="A,B", help=f"{words}: {', '.join(known)}")

    parser.add_argument("--jetspool", type=Path, required=True, help=argparse.SUPPRESS)
    add_list("--shapes", SHAPES, SHAPES, "models whose sizes are taken")
    add_list("--precisions", list(PRECISIONS), list(PRECISIONS), "ours, each beside F16, Q8_0, Q4_0")
    add_list("--cases", CASES, CASES, "what is timed")
    add_list("--peers", ["llama.cpp", *peers.ORIGINS], ["llama.cpp", "ik_llama.cpp"], "beside whom")
    parser.add_argument("--rounds", type=int, default=5, help="alternations (5)")
    parser.add_argument("--threads", type=int, default=2, help="of each program (2)")
    parser.add_argument("--work", type=Path, default=cache / "jetspool-bench", help="what is made stays there (%(default)s)")
    parser.add_argument("--source", type=copy, action="append", default=[], metavar="PEER=DIR",
                        help="a copy of a peer's repository, instead of fetching it")  # fmt: skip
    parser.add_argument("--own-tools", action="store_true", help="time llama.cpp's llama-bench and llama-batched-bench too")
    parser.add_argument("--no-memory", action="store_true", help="leave memory out")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--svg", type=Path, help="write a plot there")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing: show the figures of a file")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.from_json:
        report = json.loads(options.from_json.read_text())
    else:
        report = Bench(options).run()
    print_tables(report)
    if options.svg:
        options.svg.write_text(make_plot(report))


if __name__ == "__main__":
    main()
