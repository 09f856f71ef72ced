"""8-bit weights: as near the floats as rounding allows, the same in memory and in a file, and no easier to deceive."""

import io
import json
import math
import random
import resource
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from running import here
from torch import Tensor

from yinggem import quantization
from yinggem.checkpoint import load_model, save_model
from yinggem.completion import complete_text
from yinggem.config import ModelConfig
from yinggem.errors import UserError
from yinggem.evaluate import evaluate
from yinggem.evaluate import main as evaluate_main
from yinggem.kv_cache import KVCache
from yinggem.quantization import Int8Linear, input_levels, quantization_of, quantize, quantized
from yinggem.quantize import main as quantize_main
from yinggem.sampling import Sampling
from yinggem.tokenizer import ByteTokenizer
from yinggem.transformer import Transformer

CHANGES = [{}, {"tie_word_embeddings": True}, {"bias": False, "qk_norm": True, "num_key_value_heads": 2}]


def make(**changes) -> Transformer:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    torch.manual_seed(0)
    return Transformer(ModelConfig(256, **(sizes | {"attention_window": 8, "initializer_range": 0.2} | changes))).eval()


@pytest.fixture
def saved(tmp_path) -> Path:
    save_model(tmp_path / "q.ckpt", quantize(make()), ByteTokenizer(), context_length=16)
    return tmp_path / "q.ckpt"


def test_rounding_errs_by_half_a_step_at_most():
    torch.manual_seed(0)
    rows = [torch.randn(500) * 10.0**power for power in (-44, -40, -30, -3, 0, 3, 37)]
    weight = torch.stack([*rows, torch.zeros(500), torch.full((500,), -3e38)])
    integers, scale = quantized(weight)
    assert integers.dtype == torch.int8 and integers.shape == weight.shape and integers.min() >= -127
    exact = integers.double() * scale.double()[:, None]
    assert bool(((weight.double() - exact).abs() <= scale.double()[:, None] * 0.50001).all())
    assert torch.isfinite(Int8Linear(integers, scale, None).weight).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3, 5), (300,), (0, 4)], ids=str)
@pytest.mark.parametrize("out", [1, 31, 1001])
def test_the_product_is_that_of_the_rounded_matrix_and_inputs(shape, out, bias):
    """An input errs by half a step of its row's largest; the bound adds that over the columns."""
    torch.manual_seed(0)
    x = torch.randn(*shape, 96) * torch.logspace(-9, 9, max(math.prod(shape), 1))[: math.prod(shape)].view(*shape, 1)
    layer = Int8Linear(*quantized(torch.randn(out, 96)), torch.nn.Parameter(torch.randn(out)) if bias else None)
    with torch.no_grad():
        found, exact = layer(x), F.linear(x.double(), layer.weight.double(), None if not bias else layer.bias.double())
        step = x.abs().amax(-1, keepdim=True).double() / input_levels()
        bound = 0.51 * step * layer.weight.abs().sum(1).double() + 1e-5 * (1 + exact.abs())
    assert found.shape == exact.shape and found.dtype == torch.float32
    assert bool(((found - exact).abs() <= bound).all())


def test_a_row_does_not_depend_on_the_others_and_bad_numbers_stay_bad():
    torch.manual_seed(0)
    layer = Int8Linear(*quantized(torch.randn(33, 64)), None)
    x = torch.randn(5, 64) * torch.tensor([1e-3, 1, 1e4, 0, 1])[:, None]
    rows = torch.cat([layer(row[None]) for row in x])
    torch.testing.assert_close(layer(x), rows, rtol=1e-5, atol=1e-7)
    assert not rows[3].any()
    for bad in (torch.nan, torch.inf, -torch.inf):
        x[2, 7] = bad
        assert not torch.isfinite(layer(x)[2]).any()
        torch.testing.assert_close(layer(x)[[0, 1, 3, 4]], rows[[0, 1, 3, 4]], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("kernel", ["packed", "floats"])
def test_the_whole_model_is_near_the_floats(monkeypatch, changes, kernel):
    if kernel == "floats":  # what other devices and processors do
        monkeypatch.setattr(quantization, "has_fbgemm", lambda: False)
    model, tokens = make(**changes), torch.randint(256, (3, 40))
    with torch.no_grad():
        floats, state = model(tokens), sum(tensor.nbytes for tensor in model.state_dict().values())
        assert quantization_of(model) is None and quantize(model) is quantize(model)
        logits = model(tokens)
    assert quantization_of(model) == "int8" and not any(p.requires_grad for p in model.parameters())
    assert sum(tensor.nbytes for tensor in model.state_dict().values()) < 0.35 * state
    levels = input_levels() if kernel == "packed" else 127
    assert (logits - floats).norm() < 0.05 * 127 / levels * floats.norm()


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_with_a_cache_the_logits_are_those_without(changes):
    model, tokens = quantize(make(**changes)), torch.randint(256, (2, 30))
    with torch.no_grad():
        whole, cache = model(tokens), KVCache(model.config, 2)
        steps = [model.head(model.hidden(part, cache)) for part in (tokens[:, :11], *tokens[:, 11:].split(1, dim=1))]
    # The two round float32 differently, which now and then moves an input to the next integer.
    assert (torch.cat(steps, 1) - whole).norm() < 0.01 * whole.norm()


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_file_holds_the_model_that_quantizing_at_load_makes(tmp_path, changes):
    save_model(tmp_path / "a.ckpt", make(**changes), ByteTokenizer(), context_length=16)
    quantize_main(["--checkpoint", str(tmp_path / "a.ckpt"), "--output", str(tmp_path / "q.ckpt")])
    content = torch.load(tmp_path / "q.ckpt", weights_only=True)["yinggem"]
    assert (content["quantization"], content["context_length"]) == ("int8", 16)
    loaded = [load_model(tmp_path / "a.ckpt", quantization="int8"), load_model(tmp_path / "q.ckpt")]
    loaded.append(load_model(tmp_path / "q.ckpt", quantization="int8"))  # already
    tokens = torch.randint(256, (2, 20))
    logits = [model(tokens) for model, _ in loaded]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    texts = [complete_text(model, tokenizer, "a", 40, Sampling(), 3) for model, tokenizer in loaded]
    assert texts[0] == texts[1] == texts[2]


def test_bad_numbers_and_unknown_kinds_are_refused():
    with pytest.raises(UserError, match="int8, not 'int3'"):
        quantize(make(), "int3")
    for name in ("embedding.weight", "blocks.1.mlp.down.weight", "head.bias", "norm.weight"):
        model = make()
        model.get_parameter(name).data.view(-1)[3] = torch.nan
        with pytest.raises(UserError, match="finite"):
            quantize(model)


def trained() -> tuple[Transformer, np.ndarray]:
    """A model after a few seconds of training, and text it has not seen."""
    text = "".join(f"{k} times {k} is {k * k}, and half of it {k * k / 2}.\n" for k in range(600)).encode()
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    model, cut = make(initializer_range=0.05), len(ids) * 9 // 10
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        starts = torch.randint(cut - 65, (8,))
        rows = torch.stack([ids[start : start + 65] for start in starts])
        loss = F.cross_entropy(model.train()(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), ids[cut:].numpy().astype(np.uint16)


@pytest.mark.slow
def test_quality_suffers_less_than_half_a_percent():
    model, ids = trained()
    ones = np.ones(256, np.uint16)
    before = evaluate(model, ids, ones, 64).to_dict()["bits_per_byte"]
    after = evaluate(quantize(model), ids, ones, 64).to_dict()["bits_per_byte"]
    assert before < 2.5 and after != before  # it has learned something, and was changed
    assert after < 1.005 * before


def generate_here(*arguments: object) -> tuple[int, str, str]:
    import generate
    from yinggem.cli import run

    before, sys.argv = sys.argv, ["generate.py", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = run(generate.main)
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        sys.argv = before
    return status, out.getvalue(), err.getvalue()


def test_the_commands_take_either_way_and_agree(tmp_path, saved, capsys, monkeypatch):
    monkeypatch.setenv("YINGGEM_CACHE", str(tmp_path / "cache"))
    save_model(tmp_path / "a.ckpt", make(), ByteTokenizer())
    common = ["--json", "--max-new-tokens", 20, "--prompt", "x"]
    outs = [generate_here(*common, "--checkpoint", path, *more) for path, more in
            ((tmp_path / "a.ckpt", ["--quantize", "int8"]), (saved, []), (saved, ["--quantize", "int8"]))]  # fmt: skip
    assert [status for status, _, _ in outs] == [0, 0, 0] and not any(err for _, _, err in outs)
    assert len({json.loads(out)["text"] for _, out, _ in outs}) == 1
    status, out, err = generate_here("--checkpoint", saved, "--quantize", "int3")
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and "int8" in err
    (tmp_path / "text.txt").write_text("Shall I compare thee to a summer's day?\n" * 30)
    figures = []
    for more in (["--checkpoint", str(tmp_path / "a.ckpt"), "--quantize", "int8"], ["--checkpoint", str(saved)]):
        evaluate_main(["--data", str(tmp_path / "text.txt"), "--json", "--context-length", "16", *more])
        figures.append(json.loads(capsys.readouterr().out)["loss"])
    assert figures[0] == figures[1]


def test_quantize_refuses_in_one_sentence(tmp_path, saved, capsys):
    with pytest.raises(UserError, match="itself"):
        quantize_main(["--checkpoint", str(saved), "--output", str(saved)])
    with pytest.raises(UserError, match="Cannot write"):
        quantize_main(["--checkpoint", str(saved), "--output", str(tmp_path / "no" / "q.ckpt")])
    with pytest.raises(UserError, match="name a file"):
        quantize_main(["--checkpoint", str(tmp_path / "none"), "--output", str(tmp_path / "q.ckpt")])
    for arguments in ([], ["--output", str(tmp_path / "x"), "--quantize", "int3"]):
        with pytest.raises(SystemExit) as ended:
            quantize_main(arguments)
        assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["q.ckpt"]


def test_training_does_not_continue_from_it(saved, tmp_path):
    refused = here(
        "experiment=smoke", "data=text", f"data.path={__file__}", f"ckpt_path={saved}", f"outputs={tmp_path / 'out'}"
    ).refused()
    assert str(saved) in refused and "quantized" in refused


def assert_refused(path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_model(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence and ";" in sentence and len(sentence) < 600


def weights_of(path: Path) -> dict[str, Tensor]:
    return load_model(path)[0].state_dict()


def test_a_flipped_bit_is_refused_or_harmless(saved):
    good, expected, rng = saved.read_bytes(), weights_of(saved), random.Random(0)
    structure, directory = good.index(b"data.pkl"), good.index(b"PK\x01\x02")
    ranges, refused = [(0, len(good)), (structure, structure + 2000), (directory, len(good))], 0
    for flip in range(200):
        damaged = bytearray(good)
        damaged[rng.randrange(*ranges[flip % 3])] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        try:
            found = weights_of(saved)
        except UserError:
            refused += 1
        else:
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert refused > 80


def test_entries_that_no_quantizing_wrote_are_refused(saved):
    content = torch.load(saved, weights_only=True)
    scale, integers = "model.blocks.0.mlp.down.scale", "model.blocks.0.mlp.down.integers"
    good = content["state_dict"]
    changes: list[tuple[str, object]] = [
        (scale, good[scale] * value) for value in (torch.nan, torch.inf, -1.0, 0.0, 1e39, 1e-42)
    ]
    changes += [
        (scale, good[scale].double()), (scale, good[scale].half()), (scale, good[scale][:-1]), (scale, 3),
        (scale, good[scale][None]), (scale, torch.zeros(1).expand(2**38)),
        (integers, good[integers].float()), (integers, good[integers].to(torch.uint8)), (integers, good[integers].t()),
        (integers, good[integers].t().contiguous()), (integers, good[integers].short()), (integers, good[scale]),
        ("model.norm.weight", good["model.norm.weight"] * torch.nan),
        ("model.norm.weight", good["model.norm.weight"].char()),
        ("model.head.bias", good["model.head.bias"] / 0.0), ("model.norm.scale", good[scale]),
        ("model.more.scale", torch.ones(10)),
    ]  # fmt: skip
    for name, value in changes:
        torch.save(content | {"state_dict": good | {name: value}}, saved)
        assert_refused(saved)
    for kind in ("int4", 8, ["int8"], None, "", {}, "int8" * 10**6):
        torch.save(content | {"yinggem": content["yinggem"] | {"quantization": kind}}, saved)
        assert_refused(saved)
    torch.save(content | {"state_dict": {name: value for name, value in good.items() if name != scale}}, saved)
    assert_refused(saved)


def test_a_float_checkpoint_that_says_it_is_quantized_is_refused(tmp_path):
    save_model(tmp_path / "a.ckpt", make(), ByteTokenizer(), quantization="int8")
    assert_refused(tmp_path / "a.ckpt")


@pytest.mark.parametrize("sizes", [{"num_hidden_layers": 1000}, {"hidden_size": 1 << 20}, {"vocab_size": 1 << 20}])
def test_a_claim_of_terabytes_allocates_nothing(saved, sizes):
    content = torch.load(saved, weights_only=True)
    content["yinggem"]["model_config"] |= sizes
    torch.save(content, saved)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_refused(saved)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB
