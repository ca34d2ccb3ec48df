"""Compiles the kernels and tells what they use; see scripts/check-kernels."""

import argparse
import ctypes
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile

import kernel_counts

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "src/device/cuda"
TABLE = ROOT / "scripts/kernels.tsv"
ARCHITECTURES = ("sm_87", "sm_90", "sm_110")
# Whose instructions are counted.
COUNTED = "sm_87"
# As src/cuda/compiler.rs.
OPTIONS = ("--std=c++17", "-default-device", "--fmad=false")


def source() -> str:
    """The text that the program compiles."""
    names = re.findall(r'include_str!\("(\w+\.cu)"\)', (KERNELS / "source.rs").read_text())
    return "".join((KERNELS / name).read_text() for name in names)


def toolkit() -> pathlib.Path:
    return pathlib.Path(sysconfig.get_paths()["purelib"]) / "nvidia/cu13"


def load() -> ctypes.CDLL:
    for builtins in (toolkit() / "lib").glob("libnvrtc-builtins.so*"):
        ctypes.CDLL(str(builtins))
    return ctypes.CDLL(str(toolkit() / "lib/libnvrtc.so.13"))


def compiled(library: ctypes.CDLL, text: str, target: str, what: str) -> bytes:
    """`what` is CUBIN or PTX."""
    program = ctypes.c_void_p()
    header = (ctypes.c_char_p * 1)((KERNELS / "gpu.h").read_bytes())
    name = (ctypes.c_char_p * 1)(b"gpu.h")
    options = [option.encode() for option in (*OPTIONS, f"-arch={target}")]
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"jetspool.cu", 1, header, name)
    code = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))

    def read(kind: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{kind}")(program, buffer)
        return buffer.raw

    if code:
        sys.exit(f"{target}: {read('ProgramLog').decode().rstrip(chr(0))}")
    return read(what)


def usage(ptx: bytes, architecture: str) -> dict[str, tuple[int, int, int]]:
    """Registers, bytes of shared memory and bytes spilled of each kernel, as the assembler says."""
    with tempfile.NamedTemporaryFile(suffix=".ptx") as file:
        file.write(ptx.rstrip(b"\0"))
        file.flush()
        assembler = toolkit() / "bin/ptxas"
        assembler.chmod(0o755)
        command = [assembler, "-v", f"-arch={architecture}", file.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found = {}
    for part in done.stderr.split("Compiling entry function ")[1:]:
        def number(pattern: str, part: str = part) -> int:
            match = re.search(pattern, part)
            return int(match[1]) if match else 0

        name = re.match(r"'(\w+)'", part)[1]
        found[name] = (number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"), number(r"(\d+) bytes spill stores"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cubins", type=pathlib.Path)
    parser.add_argument("--counts", action="store_true")
    options = parser.parse_args()
    library, text = load(), source()
    if options.counts:
        cubin = compiled(library, text + kernel_counts.more_kernels(), COUNTED, "CUBIN")
        print(kernel_counts.table(cubin, toolkit() / "bin/nvdisasm"))
        return
    lines = ["architecture\tkernel\tregisters\tshared\tspilled"]
    for architecture in ARCHITECTURES:
        if options.cubins:
            cubin = compiled(library, text, architecture, "CUBIN")
            (options.cubins / f"kernels.{architecture}.cubin").write_bytes(cubin)
        ptx = compiled(library, text, architecture.replace("sm", "compute"), "PTX")
        for name, figures in sorted(usage(ptx, architecture).items()):
            lines.append("\t".join([architecture, name, *map(str, figures)]))
    table = "\n".join(lines) + "\n"
    if options.write:
        TABLE.write_text(table)
    elif table != TABLE.read_text():
        wanted = set(TABLE.read_text().splitlines())
        new = "\n".join(line for line in lines if line not in wanted)
        sys.exit(f"other than {TABLE.name} has it (scripts/check-kernels --write):\n{new}")
    spilled = [line for line in lines[1:] if not line.endswith("\t0")]
    print(f"{len(lines) - 1} kernels compiled; {len(spilled)} spill registers", *spilled, sep="\n")


if __name__ == "__main__":
    main()
