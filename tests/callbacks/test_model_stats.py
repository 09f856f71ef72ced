"""What the figures about the inside of a model say, against plain loops."""

import mmap

import pytest
import torch
from torch import Tensor
from training_runs import GROUPS, OPTIMIZERS, SHAPE, Weights, trained

from yinggem.callbacks.model_stats import AttentionDistances, UpdateRatios, attention_distances, group_of, mean_distance
from yinggem.callbacks.throughput import Throughput, peak_flops, resident_bytes
from yinggem.model.config import ModelConfig
from yinggem.model.rope import rotary_angles
from yinggem.model.transformer import Block, Transformer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_ratio_is_what_the_step_did_to_the_weights(tmp_path, optimizer):
    weights = Weights()
    rows, _ = trained(tmp_path, [UpdateRatios(), weights], optimizer, accumulate_grad_batches=2)
    assert sorted(rows) == [3, 6] and len(weights.kept) == 7
    for step, row in rows.items():
        before, after = weights.kept[step - 1], weights.kept[step]
        for group in GROUPS:
            names = [name for name in before if group_of(name) == group]
            update = torch.cat([(after[name] - before[name]).flatten() for name in names]).square().mean().sqrt()
            size = torch.cat([before[name].flatten() for name in names]).square().mean().sqrt()
            assert row[f"optim/update_ratio/{group}"] == pytest.approx(float(update / size), rel=1e-4) and update > 0


@pytest.mark.parametrize("shape", [{}, {"bias": True, "tie_word_embeddings": True, "qk_norm": True}], ids=str)
def test_every_weight_has_its_group(shape):
    names = [name for name, _ in Transformer(ModelConfig(vocab_size=9, **(SHAPE | shape))).named_parameters()]
    assert {group_of(name) for name in names} == GROUPS
    assert {group_of(name) for name in names if "norm" in name} == {"norms"}


def naive_distances(model: Transformer, tokens: Tensor) -> list[Tensor]:
    """Query by query, key by key."""
    config, length = model.config, tokens.size(1)
    window = min(config.attention_window or length, length)
    angles = rotary_angles(0, length, config.head_size, config.rope_theta, tokens.device)
    x, found = model.embedding(tokens), []
    for block in model.blocks:
        assert isinstance(block, Block)
        query, key, _ = block.attention.project(block.attention_norm(x), angles)
        group = query.size(1) // key.size(1)
        total = torch.zeros(window, dtype=torch.float64)
        for b in range(query.size(0)):
            for head in range(query.size(1)):
                for i in range(length):
                    reach = range(max(0, i - window + 1), i + 1)
                    scores = torch.stack([query[b, head, i] @ key[b, head // group, j] for j in reach])
                    weights = (scores / config.head_size**0.5).softmax(0)
                    for j, weight in zip(reach, weights, strict=True):
                        total[i - j] += weight.item()
        found.append(total / total.sum())
        x = block(x, angles)
    return found


@pytest.mark.parametrize("window", [None, 1, 5, 40])
def test_distances_are_those_of_a_plain_loop(window):
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=50, attention_window=window, num_key_value_heads=2, qk_norm=True, **SHAPE)
    model = Transformer(config).eval()
    torch.nn.init.normal_(model.get_parameter("blocks.0.attention.qkv.weight"))  # heads that prefer something
    tokens = torch.randint(50, (2, 12))
    found = list(attention_distances(model, tokens))
    with torch.no_grad():
        expected = naive_distances(model, tokens)
    assert len(found) == 2 and all(len(layer) == min(window or 12, 12) for layer in found)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-6)
        assert mean_distance(mine) == pytest.approx(float(theirs @ torch.arange(len(theirs)).double()), rel=1e-4)


def test_distances_are_shares_under_autocast_too():
    model = Transformer(ModelConfig(256, 16, 2, 2, attention_window=4)).eval()
    tokens = torch.randint(256, (2, 12))
    with torch.autocast("cpu", torch.bfloat16):
        found = list(attention_distances(model, tokens))
    for rough, exact in zip(found, attention_distances(model, tokens), strict=True):
        assert rough.dtype == torch.float32 and abs(float(rough.sum()) - 1) < 1e-5
        torch.testing.assert_close(rough, exact, atol=0.01, rtol=0)


def test_looking_changes_nothing(tmp_path):
    """Neither the random numbers nor the weights nor the losses."""
    options = {"limit_val_batches": 1.0, "val_check_interval": 3, "check_val_every_n_epoch": None,
               "shape": {"dropout": 0.1, "attention_dropout": 0.1}}  # fmt: skip
    bare, module = trained(tmp_path, [], **options)
    seen, other = trained(tmp_path, [UpdateRatios(), AttentionDistances(), Throughput()], **options)
    for step, row in bare.items():
        assert row.items() <= seen[step].items()
    assert {"attention/mean_distance/layer_01", "tokens_per_second", "machine/share_of_peak"} <= seen[3].keys()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_the_peak_is_measured_once_and_unknown_where_nobody_knows():
    cpu = torch.device("cpu")
    state = torch.random.get_rng_state()
    peak = peak_flops(cpu, torch.float32)
    assert peak is not None and 0 < peak < 1e16 and peak_flops(cpu, torch.float32) == peak
    assert peak_flops(torch.device("meta"), torch.float32) is None
    assert torch.equal(state, torch.random.get_rng_state())


def test_memory_is_that_of_the_process():
    before, size = resident_bytes(), 1 << 28
    with mmap.mmap(-1, size) as held:  # not from the heap, where tests before this one may have left as much
        held.write(b"x" * size)
        after = resident_bytes()
    assert before is not None and after is not None
    assert after - before >= size // 2
