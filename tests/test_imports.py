"""The import rule: which module may know which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each module may import those before it; design.md's list with the helpers that grew beside it.
HOUSE = [
    "errors",
    "friendly",
    "allocator",
    "config",
    "files",
    "notes",
    "waiting",
    "text_files",
    "bpe",
    "tokenizer",
    "encoding",
    "token_array",
    "token_cache",
    "corpus",
    "token_shards",
    "datamodule",
    "streaming",
    "products",
    "layers",
    "rope",
    "attention",
    "kv_cache",
    "transformer",
    "loss",
    "adafactor",
    "optim",
    "quantized_matrix",
    "quantization",
    "checkpoint",
    "sampling",
    "generation",
    "completion",
    "cli",
    "quantize",
    "evaluate",
    "shard",
    "arguments",
    "kinds",
    "memory",
    "processes",
    "run_folder",
    "metrics",
    "loggers",
    "trackers",
    "compare",
    "study",
    "search",
    "sweep",
    "command",
    "precision",
    "sharding",
    "module",
    "machine",
    "monitoring",
    "averaging",
    "progress",
    "callbacks",
    "saving",
    "pruning",
    "companions",
    "trainer",
    "tuning",
    "report",
]
LIGHT = HOUSE[: HOUSE.index("cli") + 1]  # what generate.py may load
MODULES = sorted(path for path in (ROOT / "yinggem").glob("*.py") if path.stem != "__init__")


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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_point_up_the_house_only(path):
    assert path.stem in HOUSE, "give the new module its place in the list"
    above = HOUSE[: HOUSE.index(path.stem)]
    known = {name.split(".")[1] for name in imports_of(path) if name.startswith("yinggem.")}
    assert known & set(HOUSE) <= set(above)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_knows_hydra_and_only_training_knows_lightning(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"hydra", "omegaconf"}
    if path.stem in LIGHT and path.stem not in ("datamodule", "streaming"):
        assert not roots & {"lightning", "pytorch_lightning", "matplotlib", "tensorboard"}


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


def test_generating_loads_neither_hydra_nor_lightning(tmp_path):
    code = f"""
import sys
from yinggem.checkpoint import load_model, save_model
from yinggem.config import ModelConfig
from yinggem.tokenizer import ByteTokenizer
from yinggem.transformer import Transformer
save_model({str(tmp_path / "a.ckpt")!r}, Transformer(ModelConfig(256, 8, 1, 1)), ByteTokenizer())
load_model({str(tmp_path / "a.ckpt")!r})
sys.argv = ["generate.py", "--checkpoint", {str(tmp_path / "a.ckpt")!r}, "--max-new-tokens", "3", "--num-samples", "2"]
import generate
assert generate.run(generate.main) == 0
"""
    loaded = loaded_by(code)
    assert "torch" in loaded and not loaded & HEAVY


def test_the_architecture_needs_nothing_but_the_standard_library():
    loaded = loaded_by("import yinggem.config, yinggem.sampling, yinggem.cli")
    assert not loaded & (HEAVY | {"torch", "numpy", "tiktoken"})
