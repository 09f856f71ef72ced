"""The import rule: which module may know which."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from yinggem.engine.engine import engine_refusal
from yinggem.inference.checkpoint import save_model
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer

ROOT = Path(__file__).parent.parent

# A module imports from its own room and from rooms before it, never from one behind it: the order of design.md.
ROOMS = ["common", "text", "model", "memory", "engine", "inference", "runs", "search", "training", "callbacks",
         "serving", "export", "commands"]  # fmt: skip
LIGHT = ROOMS[: ROOMS.index("search")]  # no Lightning: generating and looking at runs start at once
FILES = sorted((ROOT / "yinggem").glob("*/**/*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "yinggem").parts[0]


def imports_of(path: Path) -> set[str]:
    """Full names of every module imported anywhere in a file, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "yinggem")))
def test_imports_point_to_rooms_before(path):
    assert room_of(path) in ROOMS, "the new room needs its place in the order"
    before = ROOMS[: ROOMS.index(room_of(path)) + 1]
    known = {name.split(".")[1] for name in imports_of(path) if name.startswith("yinggem.")}
    assert known <= {*before, "__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "yinggem")))
def test_hydra_is_known_to_the_train_command_alone_and_lightning_to_training(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    if path.relative_to(ROOT / "yinggem").as_posix() != "commands/train.py":
        assert not roots & {"hydra", "omegaconf"}
    if room_of(path) in LIGHT:
        assert not roots & {"lightning", "pytorch_lightning", "tensorboard"}


def loaded_by(code: str) -> set[str]:
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {
    "hydra",
    "omegaconf",
    "lightning",
    "pytorch_lightning",
    "matplotlib",
    "tensorboard",
    "transformers",
    "tokenizers",
}


@pytest.mark.slow
def test_generating_loads_neither_hydra_nor_lightning(tmp_path):
    code = f"""
import sys
from yinggem.inference.checkpoint import load_model, save_model
from yinggem.model.config import ModelConfig
from yinggem.text.tokenizer import ByteTokenizer
from yinggem.model.transformer import Transformer
save_model({str(tmp_path / "a.ckpt")!r}, Transformer(ModelConfig(256, 8, 1, 1)), ByteTokenizer())
load_model({str(tmp_path / "a.ckpt")!r})
sys.argv = ["generate.py", "--checkpoint", {str(tmp_path / "a.ckpt")!r}, "--max-new-tokens", "3", "--num-samples", "2"]
import generate
assert generate.run(generate.main) == 0
"""
    loaded = loaded_by(code)
    assert "torch" in loaded and not loaded & HEAVY


def test_the_architecture_needs_nothing_but_the_standard_library():
    loaded = loaded_by("import yinggem.model.config, yinggem.inference.sampling, yinggem.common.command_line")
    assert not loaded & (HEAVY | {"torch", "numpy", "tiktoken"})


@pytest.mark.parametrize(
    "module",
    ["commands.generate", "inference.language_model", "inference.networks.opening", "runs.layout"],
)
def test_what_generating_needs_loads_no_torch(module):
    """Each in its own process, with all that it imports."""
    assert "torch" not in loaded_by(f"import yinggem.{module}")


@pytest.mark.skipif(engine_refusal(ModelConfig(1)) is not None, reason="there is no compiled engine")
def test_generating_and_scoring_load_no_torch(tmp_path):
    """With a memory, a limit on copies, samples side by side and figures."""
    memory = NgramMemory(np.frombuffer(b"Shall I compare thee to a summer's day? " * 9, np.uint8), 256)
    save_model(tmp_path / "a.ckpt", Transformer(ModelConfig(256, 8, 1, 1)), ByteTokenizer(), memory)
    words = ["--checkpoint", str(tmp_path / "a.ckpt"), "--max-new-tokens", "9", "--num-samples", "2", "--json"]
    code = f"""
import yinggem
from yinggem.commands.generate import main
main({[*words, "--max-copy=2", "--mark-copies", "--stats"]!r})
main({[*words, "--memory=0", "--quantize=int8", "--prompt=Shall"]!r})
model = yinggem.load({str(tmp_path / "a.ckpt")!r})
model.generate("Shall I", max_new_tokens=9), model.score("Shall I compare thee")
"""
    assert not loaded_by(code) & (HEAVY | {"torch"})


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_needs_of_the_package_is_where_it_says(path):
    """Nothing runs them here. Each lies on the path of the others, where no name may hide a module of Python's own."""
    assert path.stem not in sys.stdlib_module_names
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("yinggem."):
            module = importlib.import_module(str(node.module))
            missing = [alias.name for alias in node.names if not is_there(module, alias.name)]
            assert not missing, f"{node.module} has no {missing}"


def is_there(module: ModuleType, name: str) -> bool:
    return hasattr(module, name) or importlib.util.find_spec(f"{module.__name__}.{name}") is not None
