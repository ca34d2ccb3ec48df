"""Instructions of the hot kernels' inner loops, counted in what the assembler made of them, and the rates that they and the
memory allow; see scripts/check-kernels.

A loop is the code between a label and the last jump back to it. Loops are told by the instructions in them, and divided by
how often the compiler wrote their body down. A rate on paper is of a device that begins an instruction in each cycle of each
scheduler: none is faster, and how much slower one is was not measured.
"""

import pathlib
import re
import subprocess
import tempfile
from dataclasses import dataclass

# Warps of a multiprocessor that begin an instruction in the same cycle.
SCHEDULERS = 4
GEMM_ROWS = 64
# Rows for which the GEMM reads a weight once from memory: those of the groups of a band.
BAND_ROWS = 4 * GEMM_ROWS
# Inputs and outputs of a block.
BLOCK = 32 * 16
PROMPT = 2048


@dataclass
class Kind:
    """A kind of weights: its names in matmul.cu, gemm.cu and the kernels, 32-bit words of a lane's block, bytes of a block of
    32 inputs and 16 outputs with its scales."""

    type: str
    kernel: str
    words: int
    n_sums: int
    n_bytes: int


KINDS = (
    Kind("Int8", "int8", 8, 1, 512),
    Kind("Int4<true>", "int4_f16", 4, 1, 256 + 32),
    Kind("Affine", "affine", 4, 1, 256 + 32),
    Kind("Nvfp4", "nvfp4", 4, 2, 256 + 32),
)


@dataclass
class Device:
    """Multiprocessors, GHz, and GB/s as docs/gpu.md has them."""

    name: str
    n_processors: int
    clock: float
    memory: float


DEVICES = (
    Device("Orin Nano", 8, 1.02, 102 * 0.75),
    Device("Orin NX", 8, 1.173, 102 * 0.75),
    Device("AGX Orin", 16, 1.3, 153),
    Device("Thor", 20, 1.57, 257),
)


@dataclass
class Model:
    """Weights of the layers in billions, and how often a layer's attention reads a position: for each head of keys and values
    and each four queries of it."""

    name: str
    weights: float
    n_layers: int
    n_reads: int
    head_dim: int


MODELS = (
    Model("Qwen2.5-0.5B", 0.358, 24, 2 * 2, 64),
    Model("Qwen2.5-1.5B", 1.31, 28, 2 * 2, 128),
    Model("8B", 6.98, 32, 8, 128),
)


def more_kernels() -> str:
    """GEMVs for one number of rows each, where those of the product have all in one."""
    return "".join(
        f'extern "C" __global__ void __launch_bounds__(256) counted_{kind.kernel}_{rows}(MATRICES, CODES, ROWS_OF_PRODUCT)'
        f"{{ DYN_SHARED(float, sums); multiply_codes<{kind.type}, {rows}>(product_of(parts, stride, n_rows, groups, 1),"
        " CodeRows{codes, x_scale, x_sum}, sums); }\n"
        for kind in KINDS
        for rows in (1, 8)
    )


def loops(cubin: bytes, disassembler: pathlib.Path) -> dict[str, list[list[str]]]:
    """The loops of each kernel as lists of instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        disassembler.chmod(0o755)
        text = subprocess.run([disassembler, "-c", file.name], capture_output=True, text=True, check=True).stdout
    found = {}
    for name, part in re.findall(r"^\.text\.(\w+):\n(.*?)(?=^\.text\.|\Z)", text, re.M | re.S):
        labels, code, jumps = {}, [], {}
        for line in part.splitlines():
            if label := re.match(r"(\.L_x_\d+):", line):
                labels[label[1]] = len(code)
            elif instruction := re.match(r"\s+/\*\w+\*/\s+(.*?)\s*;", line):
                code.append(instruction[1])
                target = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", instruction[1])
                if target and target[1] in labels:
                    jumps[labels[target[1]]] = len(code)
        found[name] = [code[first:end] for first, end in jumps.items()]
    return found


def count(loop: list[str], pattern: str) -> int:
    return sum(re.search(pattern, instruction) is not None for instruction in loop)


def most(found: list[list[str]], pattern: str, without: str = "$^") -> list[str]:
    """The loop that has the pattern most often, and of these the shortest."""
    fitting = [loop for loop in found if not count(loop, without)]
    return max(fitting, key=lambda loop: (count(loop, pattern), -len(loop)))


def gemv(found: list[list[str]], kind: Kind, rows: int) -> float:
    """Instructions of warps for a block: half a warp multiplies, then a thread adds for each row and output."""
    products = most(found, r"\bIDP\b")
    n_blocks = count(products, r"\bIDP\b") / (8 * rows)
    adds = most(found, r"\bLDS\b", without=r"\bIDP\b|\bSTS\b")
    n_added = count(adds, r"\bLDS\b") / kind.n_sums
    return len(products) / n_blocks / 2 + len(adds) / n_added * max(1, rows / 2)


def gemm(found: list[list[str]], kind: Kind) -> float:
    """Instructions of a warp for a block and 64 rows."""
    loop = most(found, r"\bIMMA\b")
    n_blocks = count(loop, r"\bIMMA\b") / (GEMM_ROWS / 8 * kind.n_sums)
    return len(loop) / n_blocks


def attend(found: list[list[str]]) -> float:
    """Instructions of a warp for a position and an element of its key and value in f16, with four queries: both loops multiply
    four times for each number that they read. That of the values multiplies by scales too."""
    f16 = [loop for loop in found if count(loop, r"\bFFMA\b") == 4 * count(loop, r"\bHADD2\b") > 0]
    keys, values = most(f16, r"\bHADD2\b", without=r"\bFMUL\b"), most(f16, r"\bFMUL\b")
    return sum(len(loop) / count(loop, r"\bHADD2\b") for loop in (keys, values)) / 32


def prompts(of_block: float, n_bytes: int, of_element: float) -> list[str]:
    """Tokens a second of a prompt: what the products' instructions allow, those and attention's, and what the memory does."""
    lines = ["model\tdevice\tproducts\twith attention\tby memory"]
    for model in MODELS:
        products = model.weights * 1e9 / BLOCK / GEMM_ROWS * of_block
        attention = PROMPT / 2 * model.n_layers * model.n_reads * model.head_dim * of_element
        for device in DEVICES:
            a_second = device.n_processors * device.clock * 1e9 * SCHEDULERS
            by_memory = device.memory / (model.weights * n_bytes / BLOCK) * BAND_ROWS
            rates = (a_second / products, a_second / (products + attention), by_memory)
            lines.append("\t".join([model.name, device.name, *(f"{rate:.0f}" for rate in rates)]))
    return lines


def table(cubin: bytes, disassembler: pathlib.Path) -> str:
    """Instructions and bytes of a block of 32 inputs and 16 outputs, the cycles of a multiprocessor that the instructions take,
    and those in which the memory of each device brings it the bytes; then the rates of prompts with int4."""
    found = loops(cubin, disassembler)
    names = "\t".join(device.name for device in DEVICES)
    lines = [f"kernel\trows\tinstructions\tcycles\tbytes\t{names}"]

    def line(name: str, rows: int, n: float, n_bytes: int) -> str:
        brought = (n_bytes / (device.memory / device.n_processors / device.clock) for device in DEVICES)
        cycles = "\t".join(f"{cycles:.0f}" for cycles in brought)
        return f"{name}\t{rows}\t{n:.0f}\t{n / SCHEDULERS:.0f}\t{n_bytes}\t{cycles}"

    for kind in KINDS:
        for rows in (1, 8):
            n = gemv(found[f"counted_{kind.kernel}_{rows}"], kind, rows)
            lines.append(line(f"matmul_{kind.kernel}", rows, n, kind.n_bytes))
    for kind in KINDS:
        lines.append(line(f"gemm_{kind.kernel}", GEMM_ROWS, gemm(found[f"gemm_{kind.kernel}"], kind), kind.n_bytes))
    of_element = attend(found["attend"])
    lines.append(f"attend: {of_element:.2f} instructions for an element of a position's key and value and four queries")
    int4 = next(kind for kind in KINDS if kind.kernel == "affine")
    lines += ["", *prompts(gemm(found["gemm_affine"], int4), int4.n_bytes, of_element)]
    return "\n".join(lines)
