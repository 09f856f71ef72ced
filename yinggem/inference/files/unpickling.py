"""The structure of a checkpoint without `pickle`: a small machine that knows plain data and tensors, and nothing else.

It calls nothing by a name that it reads: a name is looked up in `CALLS`, or stands for itself.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from pickletools import OpcodeInfo
from typing import Any, NamedTuple

from yinggem.common.errors import UserError
from yinggem.inference.files.stored_tensors import Storage, StoredTensor

# What the storages of torch hold: the type, and how numpy reads it. It has no bfloat16: its bits are integers.
STORAGES = {
    "torch DoubleStorage": ("float64", "f8"), "torch FloatStorage": ("float32", "f4"),
    "torch HalfStorage": ("float16", "f2"), "torch BFloat16Storage": ("bfloat16", "i2"),
    "torch LongStorage": ("int64", "i8"), "torch IntStorage": ("int32", "i4"), "torch ShortStorage": ("int16", "i2"),
    "torch CharStorage": ("int8", "i1"), "torch ByteStorage": ("uint8", "u1"), "torch BoolStorage": ("bool", "?"),
    "torch ComplexFloatStorage": ("complex64", "c8"), "torch ComplexDoubleStorage": ("complex128", "c16"),
}  # fmt: skip
MOST_DIMENSIONS = 32


class NotPlainError(Exception):
    """The structure holds something else than plain data and tensors, or tensors that do not fit their storage."""


class Name(NamedTuple):
    """A name of Python, such as "torch float32", which stays what it is."""

    text: str


class PlainUnpickler:
    """Runs the operations of one pickle.

    Args:
        size: bytes of the pickle; what it copies may be no more than that.
        storage: (key, torch's type, numpy's, how many) -> an entry's numbers; NotPlainError where it has fewer.
    """

    def __init__(self, size: int, storage: Callable[[str, str, str, int], Storage]) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.budget, self.storage = size, storage

    def run(self, operations: Iterable[tuple[OpcodeInfo, Any, int | None]]) -> Any:
        """What is pickled, from `pickletools.genops`.

        Raises:
            NotPlainError: something in it is neither plain data nor a tensor.
        """
        try:
            for opcode, argument, _ in operations:
                if opcode.name == "STOP":
                    return self.stack.pop()
                if opcode.name in VALUES:
                    self.stack.append(argument)
                elif opcode.name in CONSTANTS:
                    self.stack.append(CONSTANTS[opcode.name]())
                else:
                    OPERATIONS[opcode.name](self, argument)
        except UserError:  # what a name of the operations is refused with
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise NotPlainError(str(error)) from None
        raise NotPlainError("it does not end")

    def name(self, text: str) -> None:
        self.stack.append(Name(text))

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def mark(self, _: None) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise NotPlainError("something is appended to what is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) not in (dict, OrderedDict, Counter):
            raise NotPlainError("an item is set of what is no mapping")
        _check_keys(items[::2])
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def tuple_of(self, items: list[Any]) -> None:
        self.stack.append(tuple(items))

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise NotPlainError("the stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def persistent(self, _: None) -> None:
        word, kind, key, _place, count = self.stack.pop()
        if word != "storage" or not isinstance(kind, Name) or type(key) is not str or not _is_count(count):
            raise NotPlainError("a storage is not described as one")
        dtype, code = STORAGES[kind.text]
        self.stack.append(self.storage(key, dtype, code, count))

    def call(self, _: None) -> None:
        function, arguments = self.last(2)
        if not isinstance(function, Name) or type(arguments) is not tuple:
            raise NotPlainError("something is called that is no name")
        self.budget -= sum(len(one) for one in arguments if hasattr(one, "__len__"))
        if self.budget < 0:
            raise NotPlainError("it grows beyond its size")
        self.stack.append(CALLS[function.text](*arguments))

    def build(self, _: None) -> None:
        self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict:  # its attributes: `_metadata` of a state dict
            raise NotPlainError("a state is given to what has none")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    sizes = type(shape) is tuple and type(stride) is tuple and len(shape) == len(stride) <= MOST_DIMENSIONS
    if not isinstance(storage, Storage) or not sizes or not all(map(_is_count, (offset, *shape, *stride))):
        raise NotPlainError("a tensor is not described as one")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if all(shape) and last >= len(storage.unread):
        raise NotPlainError("a tensor reaches beyond its storage")
    return StoredTensor(storage, offset, shape, stride)


def _parameter(tensor: Any, *_: Any) -> Any:
    if not isinstance(tensor, StoredTensor):
        raise NotPlainError("a parameter is no tensor")
    return tensor


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # as pickle writes bytes; others take forever
        raise NotPlainError(f"an encoding {encoding!r}")
    return text.encode("latin1")


def _mapping(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        _check_keys([item[0] for item in items] if isinstance(items, list) else items)
        return kind(items)

    return make


def _set(items: Any = ()) -> set[Any]:
    _check_keys(items)
    return set(items)


def _check_keys(keys: Iterable[Any]) -> None:
    """Python hashes tuples in tuples without a limit, until its own stack overflows."""
    if not all(key is None or isinstance(key, (str, bytes, int, float)) for key in keys):
        raise NotPlainError("a key is no plain value")


CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _mapping(OrderedDict), "collections Counter": _mapping(Counter), "builtins set": _set,
    "builtins complex": complex, "_codecs encode": _bytes, "torch Size": tuple, "torch device": lambda *name: name,
    "torch._utils _rebuild_tensor_v2": _tensor, "torch._utils _rebuild_parameter": _parameter,
}  # fmt: skip
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}  # their argument is a value
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple, "EMPTY_LIST": list,
    "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip
OPERATIONS: dict[str, Callable[[PlainUnpickler, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "GLOBAL": PlainUnpickler.name,
    "BINPUT": PlainUnpickler.remember,
    "LONG_BINPUT": PlainUnpickler.remember,
    "BINGET": PlainUnpickler.recall,
    "LONG_BINGET": PlainUnpickler.recall,
    "MARK": PlainUnpickler.mark,
    "APPEND": lambda machine, _: machine.append(machine.last(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.tuple_of(machine.since_mark()),
    "TUPLE1": lambda machine, _: machine.tuple_of(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.tuple_of(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.tuple_of(machine.last(3)),
    "BINPERSID": PlainUnpickler.persistent,
    "REDUCE": PlainUnpickler.call,
    "BUILD": PlainUnpickler.build,
}
