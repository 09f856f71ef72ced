"""The reader of structures without pickle: what torch writes it reads, all else it refuses without a crash."""

import contextlib
import pickle
import pickletools
import random
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from yinggem.common.errors import UserError
from yinggem.inference.files.stored_tensors import Storage, StoredTensor
from yinggem.inference.files.unpickling import NotPlainError, PlainUnpickler
from yinggem.inference.files.verification import read_plain

EARLIER = sorted((Path(__file__).parents[2] / "data" / "earlier").glob("*/checkpoints/*.ckpt"))


def same(ours: object, theirs: object) -> bool:
    """Whether all values are those that torch reads, tensors number by number."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, StoredTensor) and ours.shape == theirs.shape
        assert f"torch.{ours.dtype}" == str(theirs.dtype) and ours.is_contiguous == theirs.is_contiguous()
        bits = theirs.view(torch.int16) if theirs.dtype == torch.bfloat16 else theirs
        return not ours.is_contiguous or np.array_equal(ours.bits, bits.detach().numpy())
    if isinstance(theirs, dict):
        assert type(ours) is type(theirs) and isinstance(ours, dict) and [*ours] == [*theirs]
        return all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple) and not isinstance(theirs, torch.Size):
        return isinstance(ours, list | tuple) and all(map(same, ours, theirs)) and len(ours) == len(theirs)
    return ours == theirs


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_checkpoint_of_a_run_reads_as_torch_reads_it(path):
    assert same(read_plain(path), torch.load(path, weights_only=True))


KINDS = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"]


def test_plain_data_and_tensors_of_all_kinds_read_as_torch_reads_them(tmp_path):
    numbers = torch.arange(24).reshape(4, 6)
    content = {
        "plain": [None, True, False, 1, -1, 300, 1 << 40, -(1 << 70), 1.5, "é\ud800", b"bytes\xff", (), (1, (2, 3))],
        "counter": Counter("abba"), "ordered": OrderedDict(a=[1], b={}),
        "size": numbers.shape, "many": list(range(3000)), 3: {"nested": [{}, [], ((1,),)]},
        "kinds": {name: numbers.to(getattr(torch, name)) for name in KINDS}, "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3), "views": [numbers[1:3], numbers.t(), numbers[:, 2], numbers.expand(2, 4, 6)],
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }  # fmt: skip
    torch.save(content, tmp_path / "a.ckpt")
    read = read_plain(tmp_path / "a.ckpt")
    assert same(read, torch.load(tmp_path / "a.ckpt", weights_only=True))
    numbers = torch.randn(50).bfloat16()
    torch.save(numbers, tmp_path / "b.ckpt")
    assert np.array_equal(read_plain(tmp_path / "b.ckpt").numbers(), numbers.float().numpy())


def test_what_is_read_outlives_the_file_and_changes_no_file(tmp_path):
    torch.save({"a": torch.arange(5000)}, tmp_path / "a.ckpt")
    before = (tmp_path / "a.ckpt").read_bytes()
    tensor = read_plain(tmp_path / "a.ckpt")["a"]
    tensor.bits[:] = 7
    assert (tmp_path / "a.ckpt").read_bytes() == before
    (tmp_path / "a.ckpt").unlink()
    assert tensor.bits.sum() == 35_000


def run(structure: bytes) -> object:
    def storage(key: str, kind: str, code: str, count: int) -> Storage:
        if count > 4:
            raise NotPlainError("too many")
        return Storage(kind, np.zeros(count, code))

    return PlainUnpickler(len(structure), storage).run(pickletools.genops(structure))


HEAD, STORE = (
    b"\x80\x02",
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ",
)


def tensor(offset: bytes, shape: bytes, stride: bytes) -> bytes:
    """A pickle of `_rebuild_tensor_v2` on four numbers."""
    rest = b"\x89ccollections\nOrderedDict\n)Rt"
    return HEAD + b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORE + offset + shape + stride + rest + b"R."


def test_a_tensor_lies_in_its_storage():
    found = run(tensor(b"K\x01", b"K\x03\x85", b"K\x01\x85"))
    assert isinstance(found, StoredTensor) and found.bits.shape == (3,)
    for offset, shape, stride in [
        (b"K\x02", b"K\x03\x85", b"K\x01\x85"), (b"K\x00", b"K\x03\x85", b"K\x02\x85"),
        (b"J\xff\xff\xff\xff", b"K\x03\x85", b"K\x01\x85"), (b"K\x00", b"J\xff\xff\xff\xff\x85", b"K\x01\x85"),
        (b"K\x03", b"K\x02\x85", b"J\xff\xff\xff\xff\x85"), (b"K\x00", b"K\x03\x85", b")"),
        (b"K\x00", b"\x88\x85", b"K\x01\x85"), (b"K\x00", b"K\x03", b"K\x01\x85"), (b"N", b"K\x03\x85", b"K\x01\x85"),
        (b"K\x00", b"\x8a\x0c" + b"\xff" * 11 + b"\x01\x85", b"K\x01\x85"),
    ]:  # fmt: skip
        with pytest.raises(NotPlainError):
            run(tensor(offset, shape, stride))


HOSTILE: dict[str, bytes] = {
    "no end": HEAD + b"]",
    "nothing": b"",
    "an empty stack": HEAD + b".",
    "no mark": HEAD + b"t.",
    "an unknown place": HEAD + b"h\x05.",
    "an instance": HEAD + b"(ios\nsystem\n.",
    "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "an extension": HEAD + b"\x82\x01.",
    "a new object": HEAD + b"ccollections\nOrderedDict\n)\x81.",
    "a foreign name": HEAD + b"cos\nsystem\n(X\x01\x00\x00\x00xtR.",
    "a call of a value": HEAD + b"K\x01)R.",
    "a call without arguments": HEAD + b"ccollections\nOrderedDict\nK\x01R.",
    "a call of a type of numbers": HEAD + b"ctorch\nFloatStorage\n)R.",
    "an encoding that is slow": HEAD + b"c_codecs\nencode\n(X\x01\x00\x00\x00xX\x08\x00\x00\x00punycodetR.",
    "a state for a list": HEAD + b"]}b.",
    "an append to a dict": HEAD + b"}K\x01a.",
    "an item of a list": HEAD + b"]K\x00K\x01s.",
    "half an item": HEAD + b"}(K\x01u.",
    "a list as a key": HEAD + b"}]K\x01s.",
    "a storage that is a word": HEAD + b"X\x07\x00\x00\x00storageQ.",
    "a storage of quantized numbers": HEAD + STORE.replace(b"Float", b"QInt8") + b".",
    "a storage that is larger than its entry": HEAD + STORE.replace(b"K\x04", b"K\x05") + b".",
    "a tuple in a tuple, for ever, as a key": HEAD + b"})" + b"\x85" * 200_000 + b"K\x01s.",
    "a set of such": HEAD + b"cbuiltins\nset\n])" + b"\x85" * 200_000 + b"a\x85R.",
    "copies of copies": HEAD + b"](" + b"K\x01" * 3000 + b"eq\x00(" + b"cbuiltins\nset\nh\x00\x85R" * 3000 + b"t.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_plain_is_refused(name):
    with pytest.raises((NotPlainError, UserError)):
        run(HOSTILE[name])


def test_any_bytes_are_read_or_refused():
    good, rng = pickle.dumps({"a": [1, 2.5, "x"], "b": OrderedDict(c=(None, True))}, 2), random.Random(0)
    read: Callable[[bytes], object] = run
    assert read(good) == pickle.loads(good)
    for _ in range(3000):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(good))] = rng.randrange(256)
        with contextlib.suppress(NotPlainError):
            read(bytes(damaged))
