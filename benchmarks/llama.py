"""Decoding in C at the base shape against llama.cpp, in turns: float32, int8 and int4 against f32, q8_0 and q4_0.

    python -m pip install llama-cpp-python gguf
    python benchmarks/llama.py [--rounds 3] [--threads N] [--parts near far batch prompt]

llama.cpp is given a "llama" of the same shape with random weights, which this writes and quantizes (the head, too). It
has the same products; it has no window, and gates by SiLU. Greedy. near: positions 32 to 160. far: 576 to 640, beyond
our window of 512, where llama.cpp looks at a fifth more keys. batch: 8 texts at once, positions 32 to 96. prompt: 2,048
ids. Each contender is a process of its own, all in every round; the median of the rounds.
"""

import argparse
import ctypes
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import measure_apart, print_limits, read_gbps

from yinggem.common.processors import quota_cores
from yinggem.engine.engine import Engine
from yinggem.model.config import ModelConfig

CONFIG = ModelConfig(50257, bias=False)
KINDS = {"float32": None, "int8": "q8_0", "int4": "q4_0"}  # ours, theirs
BYTES = {"float32": 4.0, "int8": 1.0, "int4": 0.625}  # of a weight of ours, scales included
PARTS = ("near", "far", "batch", "prompt")
AIMS = {
    "near": {"float32": 1.15, "int8": 1.6, "int4": 1.5}, "far": {"float32": 1.05, "int8": 1.4, "int4": 1.3},
    "batch": dict.fromkeys(KINDS, 1.0), "prompt": dict.fromkeys(KINDS, 1.0),
}  # fmt: skip
NEAR, FAR, TOKENS, FAR_TOKENS, BATCH, BATCH_TOKENS, PROMPT = 32, 576, 128, 64, 8, 64, 2048


SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)  # C keeps no reference


def random_weights() -> dict[str, np.ndarray]:
    """The state dict of a Transformer, random."""
    rng, d = np.random.default_rng(0), CONFIG.hidden_size
    shapes = {"embedding.weight": (CONFIG.vocab_size, d), "head.weight": (CONFIG.vocab_size, d)}
    for k in range(CONFIG.num_hidden_layers):
        shapes |= {
            f"blocks.{k}.attention.qkv.weight": (3 * d, d), f"blocks.{k}.attention.output.weight": (d, d),
            f"blocks.{k}.mlp.gate_up.weight": (2 * CONFIG.intermediate_size, d),
            f"blocks.{k}.mlp.down.weight": (d, CONFIG.intermediate_size),
        }  # fmt: skip
    norms = [f"blocks.{k}.{name}.weight" for k in range(CONFIG.num_hidden_layers) for name in NORMS] + ["norm.weight"]
    made = {name: rng.standard_normal(shape, np.float32) * np.float32(0.02) for name, shape in shapes.items()}
    return made | {name: np.ones(d, np.float32) for name in norms}


NORMS = ("attention_norm", "mlp_norm")


def write_gguf(path: Path) -> None:
    """The same weights as a "llama" in float32."""
    import gguf

    writer, weights, d = gguf.GGUFWriter(path, "llama"), random_weights(), CONFIG.hidden_size
    writer.add_context_length(4096)
    writer.add_embedding_length(d)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_attention_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(CONFIG.rope_theta)
    writer.add_rope_dimension_count(CONFIG.head_size)
    writer.add_file_type(0)
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{k}" for k in range(CONFIG.vocab_size)])
    writer.add_token_types([1] * CONFIG.vocab_size)
    writer.add_token_merges(["t 0"])
    writer.add_tensor("token_embd.weight", weights["embedding.weight"])
    writer.add_tensor("output.weight", weights["head.weight"])
    writer.add_tensor("output_norm.weight", weights["norm.weight"])
    for k in range(CONFIG.num_hidden_layers):
        ours, theirs = f"blocks.{k}.", f"blk.{k}."
        for name, part in zip("qkv", np.split(weights[f"{ours}attention.qkv.weight"], 3), strict=True):
            writer.add_tensor(f"{theirs}attn_{name}.weight", part)
        for name, part in zip(("gate", "up"), np.split(weights[f"{ours}mlp.gate_up.weight"], 2), strict=True):
            writer.add_tensor(f"{theirs}ffn_{name}.weight", part)
        writer.add_tensor(f"{theirs}attn_output.weight", weights[f"{ours}attention.output.weight"])
        writer.add_tensor(f"{theirs}ffn_down.weight", weights[f"{ours}mlp.down.weight"])
        writer.add_tensor(f"{theirs}attn_norm.weight", weights[f"{ours}attention_norm.weight"])
        writer.add_tensor(f"{theirs}ffn_norm.weight", weights[f"{ours}mlp_norm.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize_gguf(source: Path, target: Path, kind: str) -> None:
    """All matrices as q8_0 or q4_0, the head too."""
    import llama_cpp

    llama_cpp.llama_log_set(SILENT, None)
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}[kind]
    settings.pure = True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)):
        raise SystemExit(f"llama.cpp could not quantize to {kind}.")


class Ours:
    """Texts decoded by the engine."""

    def __init__(self, kind: str, threads: int) -> None:
        self.engine = Engine(CONFIG, random_weights(), storage=kind, rows=BATCH, threads=threads)  # type: ignore[arg-type]

    def read(self, row: int, ids: np.ndarray) -> int:
        """Continue a row by a prompt -> the likeliest id."""
        return int(self.engine.read(row, ids).argmax())

    def step(self, ids: list[int]) -> list[int]:
        """Continue as many rows by one id each -> the likeliest ids."""
        if len(ids) == 1:
            return [int(self.engine.read(0, ids).argmax())]
        return self.engine.step(range(len(ids)), ids).argmax(1).tolist()  # type: ignore[no-any-return]


class Theirs:
    """The same by llama.cpp, by the functions of its C interface."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self.lib = lib = llama_cpp
        lib.llama_log_set(SILENT, None)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        settings = lib.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_seq_max = 4096, 2048, BATCH
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified = True
        self.context = lib.llama_init_from_model(self.model, settings)
        self.batch, self.positions = lib.llama_batch_init(2048, 0, 1), [0] * BATCH

    def _decode(self, rows: list[int], ids: list[int], wanted: list[bool]) -> Any:
        for k, (row, token) in enumerate(zip(rows, ids, strict=True)):
            self.batch.token[k], self.batch.pos[k], self.batch.n_seq_id[k] = token, self.positions[row], 1
            self.batch.seq_id[k][0], self.batch.logits[k] = row, wanted[k]
            self.positions[row] += 1
        self.batch.n_tokens = len(ids)
        if self.lib.llama_decode(self.context, self.batch):
            raise SystemExit("llama.cpp could not decode.")

    def _likeliest(self, k: int) -> int:
        logits = self.lib.llama_get_logits_ith(self.context, k)
        return int(np.ctypeslib.as_array(logits, (CONFIG.vocab_size,)).argmax())

    def read(self, row: int, ids: np.ndarray) -> int:
        """As above."""
        self._decode([row] * len(ids), ids.tolist(), [k == len(ids) - 1 for k in range(len(ids))])
        return self._likeliest(len(ids) - 1)

    def step(self, ids: list[int]) -> list[int]:
        """As above."""
        self._decode([*range(len(ids))], ids, [True] * len(ids))
        return [self._likeliest(k) for k in range(len(ids))]


def measure(contender: Ours | Theirs, part: str) -> float:
    """Tokens per second, by the median step."""
    prompt = np.random.default_rng(1).integers(0, CONFIG.vocab_size, PROMPT)
    if part == "prompt":
        contender.read(1, prompt[:64])
        start = time.perf_counter()
        contender.read(0, prompt)
        return PROMPT / (time.perf_counter() - start)
    rows, before, steps = {
        "near": (1, NEAR, TOKENS), "far": (1, FAR, FAR_TOKENS), "batch": (BATCH, NEAR, BATCH_TOKENS),
    }[part]  # fmt: skip
    ids, times = [contender.read(row, prompt[row : row + before]) for row in range(rows)], []
    for _ in range(steps):
        start = time.perf_counter()
        ids = contender.step(ids)
        times.append(time.perf_counter() - start)
    return rows / statistics.median(times)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=quota_cores())
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        who, part, kind, threads = options.one
        contender = Ours(kind, int(threads)) if who == "ours" else Theirs(who, int(threads))
        print(json.dumps(measure(contender, part)))
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    print_limits()
    with tempfile.TemporaryDirectory() as folder:
        files = {"float32": Path(folder, "f32.gguf")}
        write_gguf(files["float32"])
        for kind, name in KINDS.items():
            if name:
                files[kind] = Path(folder, f"{name}.gguf")
                quantize_gguf(files["float32"], files[kind], name)
        print_table(files, options.parts, options.rounds, str(options.threads))


def print_table(files: dict[str, Path], parts: list[str], rounds: int, threads: str) -> None:
    """All contenders, in turns."""
    rates: dict[tuple[str, str, str], list[float]] = {}
    limits: dict[str, list[float]] = {kind: [] for kind in files}
    weights = CONFIG.parameters - CONFIG.vocab_size * CONFIG.hidden_size  # the embedding is looked up
    for _ in range(rounds):
        for part in parts:
            for kind, path in files.items():
                limits[kind].append(read_gbps() * 1e9 / (weights * BYTES[kind]))
                for who in ("ours", str(path)):
                    rate = measure_apart(__file__, who, part, kind, threads)
                    rates.setdefault((part, kind, "ours" if who == "ours" else "theirs"), []).append(rate)
    print(f"\n{'':20}{'ours':>10}{'llama.cpp':>12}{'ratio':>8}{'aim':>6}{'ours, of the read limit':>26}")
    for part in parts:
        for kind in files:
            ours, theirs = (statistics.median(rates[part, kind, who]) for who in ("ours", "theirs"))
            share = f"{ours / statistics.median(limits[kind]):26.0%}" if part == "near" else ""
            print(f"{part:8}{kind:12}{ours:10.1f}{theirs:12.1f}{ours / theirs:8.2f}{AIMS[part][kind]:6.2f}{share}")


if __name__ == "__main__":
    main()
