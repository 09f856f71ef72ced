"""Naive code that says what the fast code must compute: loops and full matrices, straight from the definitions."""

import codecs
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attention_by_loops(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    """One softmax per query over the keys with i - window < j <= i; queries stand at the end of the keys."""
    batch, heads, length, size = query.shape
    total, groups = key.size(2), heads // key.size(1)
    window = window or total
    out = torch.empty(batch, heads, length, size, dtype=query.dtype)
    rows = []
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                i = total - length + t
                seen = range(max(0, i - window + 1), i + 1)
                keys = torch.stack([key[b, h // groups, j] for j in seen])
                values = torch.stack([value[b, h // groups, j] for j in seen])
                rows.append(torch.softmax(keys @ query[b, h, t] / size**0.5, dim=0) @ values)
    return torch.stack(rows).view_as(out)


def rotate_by_complex_numbers(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """x (B, T, H, d): the pair (x[i], x[i + d/2]) is a complex number turned by position * theta ** (-2 i / d)."""
    half = x.size(-1) // 2
    frequencies = theta ** -(torch.arange(half, dtype=torch.float64) / half)
    turns = torch.polar(torch.ones(len(positions), half).double(), positions.double()[:, None] * frequencies)
    numbers = torch.complex(x[..., :half].double(), x[..., half:].double()) * turns[:, None]
    return torch.cat((numbers.real, numbers.imag), dim=-1).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, in float64."""
    wide = x.double()
    return wide / (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(mean squared distance from it + eps) * weight + bias, in float64."""
    centred = x.double() - x.double().mean(-1, keepdim=True)
    unit = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return unit * weight.double() + (0 if bias is None else bias.double())


# Of the gate and of what it multiplies; an activation without a gate takes the first.
ACTIVATION_DEFINITIONS = {
    "geglu": lambda gate, up: 0.5 * gate * (1 + torch.tanh((2 / math.pi) ** 0.5 * (gate + 0.044715 * gate**3))) * up,
    "swiglu": lambda gate, up: gate / (1 + torch.exp(-gate)) * up,
    "relu2": lambda x, _: torch.where(x > 0, x, 0.0) ** 2,
}


def cross_entropy_of_all_logits(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, reduction: str
) -> Tensor:
    """The plain loss, with every logit in memory."""
    logits = F.linear(hidden, weight, bias).flatten(0, -2)
    return F.cross_entropy(logits, targets.flatten(), reduction=reduction)


def nats_one_by_one(model: nn.Module, ids: np.ndarray, context: int) -> float:
    """Token t is predicted from the tokens of its window before it; windows start at 0, C, 2C ..."""
    total = 0.0
    with torch.no_grad():
        for t in range(1, len(ids)):
            start = (t - 1) // context * context
            logits = model(torch.from_numpy(ids[start:t].astype(np.int64))[None])[0, -1]
            total -= logits.double().log_softmax(-1)[int(ids[t])].item()
    return total


def kneser_ney(text: Sequence[int], vocab_size: int, longest: int, context: Sequence[int], token: int) -> float:
    """Interpolated Kneser-Ney with three discounts, by dictionaries; the text is a ring."""
    ring = [text[i % len(text)] for i in range(len(text) + longest - 1)]
    grams = [Counter(tuple(ring[i : i + n]) for i in range(len(text))) for n in range(1, longest + 2)]
    probability = 1 / vocab_size
    for n in range(1, longest + 1):
        if n - 1 > len(context):
            break
        counts = grams[n - 1] if n == longest else Counter(gram[1:] for gram in grams[n])
        ones, twos, threes, fours = (max(1, sum(c == k for c in counts.values())) for k in (1, 2, 3, 4))
        share = ones / (ones + 2 * twos)
        free = [1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes]
        discounts = [0.0, *(min(max(d, m / 20), m) for d, m in zip(free, (0.95, 1.9, 2.85), strict=True))]
        before = tuple(context[len(context) - n + 1 :])
        after = {gram[-1]: c for gram, c in counts.items() if gram[:-1] == before}
        if not after:
            break
        total, kept_back = sum(after.values()), sum(discounts[min(c, 3)] for c in after.values())
        own = after.get(token, 0)
        probability = (max(own - discounts[min(own, 3)], 0) + kept_back * probability) / total
    return probability


def witten_bell(
    counted: Sequence[int], context: Sequence[int], vocab_size: int, orders: Sequence[int], token: int
) -> float:
    """Witten and Bell's method C by lists: what followed the last tokens of the context, so many, among `counted`."""
    probability = 1 / vocab_size
    for n in orders:
        if n > len(context):
            break
        after = [
            counted[i] for i in range(n, len(counted)) if list(counted[i - n : i]) == list(context[len(context) - n :])
        ]
        if not after:
            break
        different = len(set(after))
        probability = (after.count(token) + different * probability) / (len(after) + different)
    return probability


def stretches_of(text: str, count: int, characters: bool) -> set[tuple[str, ...]]:
    """Every stretch of so many words (or characters) of a text."""
    units = list(text) if characters else text.split()
    return {tuple(units[start : start + count]) for start in range(len(units) - count + 1)}


def ends_in_copy(text: str, known: set[tuple[str, ...]], count: int, characters: bool) -> bool:
    """Whether the last `count` words (or characters) of a text are a known stretch, the last word finished or not."""
    units = list(text) if characters else text.split()
    at_end = characters or not text[-1:].isspace()
    return at_end and len(units) >= count and tuple(units[-count:]) in known


def forbidden_tokens(
    tokens: Sequence[bytes], prompt: str, output: bytes, training: str, limit: int, characters: bool
) -> set[int]:
    """The tokens after which some beginning of the output ends in a copy of more than `limit`; each tried in full."""
    known = stretches_of(training, limit + 1, characters)
    certain = len(prompt) + len(codecs.getincrementaldecoder("utf-8")("replace").decode(output))
    found = set()
    for number, token in enumerate(tokens):
        text = prompt + (output + token).decode("utf-8", "replace")
        ends = range(certain + 1, len(text) + 1)
        if any(ends_in_copy(text[:end], known, limit + 1, characters) for end in ends):
            found.add(number)
    return found


def copies_by_sets(
    text: str, training: str, least: int, characters: bool, after: int
) -> tuple[list[tuple[int, int, int]], int, float]:
    """Maximal stretches (start, end, length), the longest one's length, and the share of stretches of `least`."""
    spans = [found.span() for found in re.finditer("(?s)." if characters else r"\S+", text)]
    units = [text[start:end] for start, end in spans]
    known = set().union(*(stretches_of(training, count, characters) for count in range(1, len(units) + 1)))
    lengths = []  # of the longest stretch that ends with each unit
    for end in range(1, len(units) + 1):
        lengths.append(max((end - k for k in range(end) if tuple(units[k:end]) in known), default=0))
    late = [end for end in range(1, len(units) + 1) if spans[end - 1][1] > after]
    found = [
        (spans[end - lengths[end - 1]][0], spans[end - 1][1], lengths[end - 1])
        for end in late
        if lengths[end - 1] >= least and (end == len(units) or lengths[end] != lengths[end - 1] + 1)
    ]
    whole = [lengths[end - 1] >= least for end in late if end >= least]
    return found, max((lengths[end - 1] for end in late), default=0), sum(whole) / max(1, len(whole))


def philox_uniform(seed: int, position: int) -> float:
    """Philox4x32-10 (Salmon et al. 2011) in whole numbers: of 128 bits, the first 53 that the project takes."""
    x, key, bits = [position % 2**32, position >> 32, 0, 0], [seed % 2**32, seed >> 32], 2**32
    for _ in range(10):
        first, second = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [second // bits ^ x[1] ^ key[0], second % bits, first // bits ^ x[3] ^ key[1], first % bits]
        key = [(key[0] + 0x9E3779B9) % bits, (key[1] + 0xBB67AE85) % bits]
    return ((x[0] >> 5) * 2**26 + (x[1] >> 6)) / 2**53
