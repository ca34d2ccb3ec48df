"""llama.cpp and programs that come from it, built for this processor in a work folder. Nothing is built twice."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
# llama.cpp as this package vendors it: a source release that package indexes keep.
LLAMA_PACKAGE = "llama-cpp-python==0.3.36"
TOOLS = ["llama-bench", "llama-batched-bench", "llama-quantize", "llama-perplexity"]


@dataclass
class Origin:
    """A repository, and what is built of it beside the driver."""

    url: str
    commit: str
    folder: str
    targets: list[str]
    tools: list[str]
    options: list[str]
    driver_flags: list[str]


ORIGINS = {
    # Attention over quantized keys and values takes most of the compiler's time, and nobody here asks for it.
    "ik_llama.cpp": Origin("https://github.com/ikawrakow/ik_llama.cpp", "8337e4cd3861406fc04e0854b1409cd1b027fbc9", ".",
                           ["llama-bench", "llama-batched-bench"], ["llama-bench", "llama-batched-bench"],
                           ["-DGGML_IQK_FA_ALL_QUANTS=OFF"], ["-DIK_LLAMA"]),
    "EdgeLoRA": Origin("https://github.com/shenzheyu/EdgeLoRA", "b4014595598a998db345d16cc9d3407a98998c3c", "edgelora",
                       ["llama"], [], ["-DLLAMA_BUILD_EXAMPLES=OFF"], ["-DEDGE_LORA"]),
}  # fmt: skip

# Flag of /proc/cpuinfo, options of llama.cpp, flags of a compiler. AMX is left out: builds with it end with an illegal
# instruction on Q4_0 and Q8_0.
FEATURES = [
    ("sse4_2", ["GGML_SSE42"], []),
    ("avx", ["GGML_AVX"], []),
    ("avx2", ["GGML_AVX2"], []),
    ("fma", ["GGML_FMA"], []),
    ("f16c", ["GGML_F16C"], []),
    ("bmi2", ["GGML_BMI2"], ["-mbmi2"]),
    ("avx_vnni", ["GGML_AVX_VNNI", "GGML_AVXVNNI"], []),
    ("avx512bw", ["GGML_AVX512"], []),
    # ik_llama.cpp asks the compiler for these beside, and else for parts that do not fit together.
    ("avx512dq", [], ["-mavx512dq"]),
    ("avx512vl", [], ["-mavx512vl"]),
    ("avx512_vbmi", ["GGML_AVX512_VBMI"], []),
    ("avx512_vnni", ["GGML_AVX512_VNNI"], []),
    ("avx512_bf16", ["GGML_AVX512_BF16"], []),
]


@dataclass
class Peer:
    name: str
    version: str
    bin: Path

    @property
    def driver(self) -> Path:
        return self.bin / "driver"


def processor() -> tuple[str, set[str]]:
    """Its name and its features."""
    lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    words = {key.strip(): value.strip() for key, value in reversed(lines)}
    return words.get("model name", os.uname().machine), set(words.get("flags", words.get("Features", "")).split())


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(command: list, log: Path, **named) -> None:
    """Runs a command into a log, the end of which is shown when it fails."""
    with log.open("w") as file:
        code = subprocess.run([str(word) for word in command], stdout=file, stderr=subprocess.STDOUT, **named).returncode
    if code:
        say("\n".join(log.read_text().splitlines()[-20:]))
        raise SystemExit(f"{command[0]} fails; {log} holds the rest")


def cmake_options() -> list[str]:
    """As llama.cpp is built for other machines than the builder's: each feature by name."""
    options = ["-DGGML_NATIVE=OFF"]
    if os.uname().machine == "x86_64":
        _, found = processor()
        flags = []
        for feature, names, extra in FEATURES:
            options += [f"-D{name}={'ON' if feature in found else 'OFF'}" for name in names]
            flags += extra if feature in found else []
        options.append(f"-DGGML_ARCH_FLAGS={';'.join(flags)}")
        return options
    # On aarch64 there is no list: the compiler's own idea of this processor.
    return ["-DGGML_NATIVE=ON"]


def build(source: Path, out: Path, targets: list[str], more: list[str], driver_flags: list[str]) -> None:
    """Into out/bin: the tools and the driver. Libraries are static, so that a tool is one file."""
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF"]
    options += [f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "SERVER", "UI")]
    command = [tools / "cmake", "-G", "Ninja", "-S", source, "-B", out, *options, *more, *cmake_options()]
    run(command, Path(f"{out}.cmake.log"), env=environment)
    run([tools / "ninja", "-C", out, *targets], Path(f"{out}.ninja.log"), env=environment)
    # In the order in which they need each other.
    libraries = [path for stem in ("libllama", "libggml", "libggml-cpu", "libggml-base")
                 for path in out.glob(f"**/src/{stem}.a")]  # fmt: skip
    (out / "bin").mkdir(exist_ok=True)
    command = [os.environ.get("CXX", "c++"), "-O2", "-std=c++17", *driver_flags, f"-I{source}/include",
               f"-I{source}/ggml/include", HERE / "driver.cpp", "-o", out / "bin" / "driver", *libraries,
               "-fopenmp", "-lpthread", "-ldl"]  # fmt: skip
    run(command, Path(f"{out}.driver.log"))


def is_built(peer: Peer, targets: list[str]) -> bool:
    return all((peer.bin / tool).exists() for tool in [*targets, "driver"])


def llama_cpp(work: Path) -> Peer:
    version = LLAMA_PACKAGE.rsplit("=", 1)[1]
    sources, out = work / "sources", work / f"llama.cpp-{version}"
    peer = Peer("llama.cpp", f"of {LLAMA_PACKAGE}", out / "bin")
    if is_built(peer, TOOLS):
        return peer
    sources.mkdir(parents=True, exist_ok=True)
    source = sources / f"llama_cpp_python-{version}" / "vendor" / "llama.cpp"
    if not source.exists():
        say(f"fetching {LLAMA_PACKAGE}")
        # Never --no-binary :all:, which compiles cmake itself.
        run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", "-d", sources,
             LLAMA_PACKAGE], work / "pip.log")  # fmt: skip
        with tarfile.open(sources / f"llama_cpp_python-{version}.tar.gz") as archive:
            archive.extractall(sources, filter="data")
    say("building llama.cpp (some minutes)")
    build(source, out, TOOLS, [], [])
    return peer


def cloned(name: str, work: Path, given: str | None) -> Peer | None:
    """From a directory, or from its repository; none where neither can be had."""
    origin, out = ORIGINS[name], work / name
    peer = Peer(name, origin.commit[:9], out / "bin")
    if is_built(peer, origin.tools):
        return peer
    source = Path(given).resolve() if given else work / "sources" / name
    if not source.exists():
        say(f"fetching {name}")
        source.mkdir(parents=True)
        fetch = ["fetch", "-q", "--depth", "1", origin.url, origin.commit]
        for step in [["init", "-q"], fetch, ["checkout", "-q", "FETCH_HEAD"]]:
            if subprocess.run(["git", "-C", source, *step]).returncode:
                say(f"SKIPPED: {name} cannot be fetched (--source {name}=DIR takes a copy of it)")
                subprocess.run(["rm", "-rf", source])
                return None
    say(f"building {name} (ten minutes or more)")
    build(source / origin.folder, out, origin.targets, origin.options, origin.driver_flags)
    return peer
