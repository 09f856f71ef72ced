"""Make engine.wasm of engine.c: `make wasm`, or python -m yinggem.engine.build_wasm.

The file is kept in the package, so that nobody needs a compiler to write an HTML file. Whoever changes one of `SOURCES`
makes it again; a test says so, for the file holds their hash.

    clang --target=wasm32 -nostdlib FLAGS -Wl,EXPORTS wasm.c      Debian, Ubuntu: apt-get install clang lld
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.common.files import write_atomically

ROOM = Path(__file__).parent
WASM = ROOM / "engine.wasm"
ENTRY = ROOM / "wasm.c"
OTHERS = {"avx2", "avx512", "neon"}  # processors whose kernels it does not hold
SECTION = b"yinggem-sources"
FUNCTIONS = (
    *("engine_matrix", "engine_norm", "engine_reset", "engine_copy", "engine_free", "memory_free"),
    *(
        "page_allocate",
        "page_release",
        "page_open",
        "page_read",
        "page_stride",
        "page_logits",
        "page_tell",
        "page_draw",
        "page_knowledge",
        "page_know",
        "page_remember",
        "page_mix",
    ),
)
FLAGS = [
    *("--target=wasm32", "-nostdlib", "-ffreestanding", "-std=c11", "-O3", "-g0"),
    # As setup.py has it, and what every browser has had since 2021: vectors, rounding and copying as instructions.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-msimd128", "-mbulk-memory", "-mnontrapping-fptoint", "-msign-ext"),
    *("-Wl,--no-entry", "-Wl,--strip-all", "-Wl,--lto-O3", "-Wl,-z,stack-size=65536"),
]


def sources() -> list[Path]:
    """The files that it is made of."""
    found = [*ROOM.glob("*.c"), *ROOM.glob("*.h")]
    return sorted(path for path in found if path.stem.removeprefix("kernels_") not in OTHERS)


def source_hash() -> bytes:
    """Of all of them, and of how they are compiled."""
    kept = [path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") for path in sources()]
    return hashlib.sha256(b"\0".join([*kept, " ".join([*FLAGS, *FUNCTIONS]).encode()])).digest()


def compile_wasm(output: Path) -> None:
    """Compile, and note the hash in a section of its own, which browsers skip.

    Raises:
        UserError: there is no clang, or no wasm-ld, or they have something to say.
    """
    for tool, package in (("clang", "clang"), ("wasm-ld", "lld")):
        if not shutil.which(tool):
            raise UserError(f"There is no {tool} here; install the package {package} of the system.")
    exports = [f"-Wl,--export={name}" for name in FUNCTIONS]
    command = ["clang", *FLAGS, *exports, str(ENTRY), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise UserError(f"clang did not compile {ENTRY.name} without a word:\n{done.stderr}")
    content = bytes([len(SECTION)]) + SECTION + source_hash()
    write_atomically(output, output.read_bytes() + bytes([0, len(content)]) + content)


def kept_hash(content: bytes) -> bytes:
    """The hash in a compiled file."""
    return content[-32:] if content[:-32].endswith(SECTION) else b""


def main() -> None:
    """Write the file of the package."""
    compile_wasm(WASM)
    print(f"{WASM}: {WASM.stat().st_size:,} bytes")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
