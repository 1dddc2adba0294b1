"""A restricted unpickler for weight files: containers, plain values and descriptions of tensors, nothing else.

Every class or function that a pickle names becomes an inert marker, so no code of the file, of Python or of torch.jit runs.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from typing import IO, Any, ClassVar, NoReturn

import torch

from ham.tensor_files.errors import UnreadableError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # begins every file of torch.save before PyTorch 1.6
MAX_READS = 6_000_000  # at least one read per pickle operation; the pickle of a 7B model needs about 50,000
MAX_PICKLE_BYTES = 2**30
MAX_TENSORS = 1_000_000
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "UntypedStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
PLAIN_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
TYPED_TENSOR = "torch._utils._rebuild_tensor_v3"
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
DICTIONARIES = ("collections.OrderedDict", "builtins.dict", "__builtin__.dict")


@dataclass(frozen=True)
class Global:
    """A class or function that the pickle names; it is never looked up."""

    name: str


class Foreign:
    """An object of a class that is not read. Keeps what the pickle put into it: state of a module, entries of a mapping."""

    __slots__ = ("class_name", "entries", "state")

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name
        self.state: Any = None
        self.entries: dict[Any, Any] = {}

    def append(self, _: Any) -> None:
        """Ignore an element of a foreign list."""

    def extend(self, _: Any) -> None:
        """Ignore elements of a foreign list."""


@dataclass(frozen=True)
class Storage:
    """A block of numbers in the file, by its key in the pickle."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the pickle describes it: a view of a storage, offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class CountedReader:
    """Read a file with an upper bound on the number of reads and of bytes, so that no pickle grows without end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.reads, self.bytes = file, 0, 0

    def read(self, size: int) -> bytes:
        if size < 0 or self.bytes + size > MAX_PICKLE_BYTES:
            raise UnreadableError("a pickle of more than 1 GiB beside its tensors", "save the weights alone")
        return self._counted(self.file.read(size))

    def readline(self) -> bytes:
        return self._counted(self.file.readline(MAX_PICKLE_BYTES))

    def _counted(self, data: bytes) -> bytes:
        self.reads += 1
        self.bytes += len(data)
        if self.reads > MAX_READS:
            raise UnreadableError("a pickle of millions of objects", "save the weights alone")
        return data


class TensorUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Unpickle containers, plain values and descriptions of tensors; everything else becomes `Global` or `Foreign`.

    Python's own pure-Python unpickler with every operation replaced that could call something, hash a nested object or
    allocate memory that the file does not fill. (The C unpickler allocates as much as a memo index says.)
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, reader: CountedReader) -> None:
        super().__init__(reader, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Global:
        """Return a marker for a class or function; it is never imported."""
        return Global(f"{module}.{name}")

    def get_extension(self, code: int) -> NoReturn:
        """Refuse the pickle extension registry."""
        raise UnreadableError(f"a pickle with the extension code {code}")

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that a persistent id describes."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            if isinstance(pid, tuple) and pid[:1] == ("module",) and len(pid) > 1:
                return pid[1]  # very old files keep the source of a class here
            raise UnreadableError("a pickle with an unknown kind of reference")
        _, kind, key, _, numel = pid[:5]
        dtype = DTYPES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Global) else None
        if dtype is None:
            name = kind.name if isinstance(kind, Global) else kind
            raise UnreadableError(
                f"tensors of the unsupported type {str(name)[:60]}", "save them as float32 or float16"
            )
        if len(pid) > 5 and pid[5] is not None:
            raise UnreadableError("an old file with views of storages", "save it again with a newer PyTorch")
        if not isinstance(key, str) or not is_count(numel):
            raise UnreadableError("a pickle with a damaged tensor storage")
        storage = self.storages.setdefault(key, Storage(key, dtype, numel))
        if storage != Storage(key, dtype, numel):
            raise UnreadableError(f"a pickle that describes tensor storage {key!r} in two ways")
        return storage

    def call(self, function: Any, args: Any) -> Any:
        """Return what a call in the pickle stands for; nothing is called."""
        if not isinstance(function, Global) or not isinstance(args, tuple):
            return Foreign("unknown")
        name = function.name
        if name in PLAIN_TENSORS and len(args) >= 4:
            return stored_tensor(*args[:4], dtype=None)
        if name == TYPED_TENSOR and len(args) >= 7:
            return stored_tensor(*args[:4], dtype=args[6])
        if name in PARAMETERS and args:
            return args[0]
        if name == "torch._tensor._rebuild_from_type_v2" and len(args) >= 3:
            return self.call(args[0], args[2])
        if name.startswith("torch.jit._pickle.") and args:  # lists with a type tag
            return args[0]
        if name.startswith("torch._utils._rebuild_"):
            raise UnreadableError(
                f"a tensor of an unsupported kind ({name.rpartition('.')[2]})",
                "save it as a dense, unquantized tensor",
            )
        if name in DICTIONARIES:
            return dictionary(args[0] if args and isinstance(args[0], list) else [])
        return Foreign(name)

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self.call(klass, tuple(args)))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def load_newobj(self) -> None:
        self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], ())

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Foreign):
            self.stack[-1].state = state

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        put(self.stack[-1], key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            put(self.stack[-1], key, value)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(dictionary(list(zip(items[::2], items[1::2], strict=True))))

    def load_empty_set(self) -> None:
        self.append(Foreign("builtins.set"))

    def load_additems(self) -> None:
        self.pop_mark()

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.append(Foreign("builtins.frozenset"))

    def load_frame(self) -> None:
        self.read(8)  # every read is counted anyway

    def load_refused(self) -> None:
        raise UnreadableError("a pickle with an operation that torch.save never writes")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.EMPTY_SET[0]] = load_empty_set
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.FRAME[0]] = load_frame
    dispatch[pickle.BYTEARRAY8[0]] = load_refused
    dispatch[pickle.NEXT_BUFFER[0]] = load_refused
    dispatch[pickle.READONLY_BUFFER[0]] = load_refused


def put(target: Any, key: Any, value: Any) -> None:
    """Set an entry of a dictionary. A key that is no plain value is left out: hashing nested tuples can overflow the stack."""
    if isinstance(target, Foreign):
        target = target.entries
    if not isinstance(target, dict):
        raise UnreadableError("a damaged pickle (entries for something that is no dictionary)")
    if isinstance(key, str | int | float | bytes | None):
        target[key] = value


def dictionary(pairs: list[Any]) -> dict[Any, Any]:
    """Build a dictionary from pairs; see `put`."""
    made: dict[Any, Any] = {}
    for pair in pairs:
        if isinstance(pair, tuple | list) and len(pair) == 2:
            put(made, pair[0], pair[1])
    return made


def is_count(value: Any) -> bool:
    """Check that a value is an integer from 0 to the largest that torch can hold."""
    return type(value) is int and 0 <= value < 2**63


def stored_tensor(storage: Any, offset: Any, shape: Any, stride: Any, dtype: Any) -> StoredTensor:
    """Check a tensor's description against its storage. Raises UnreadableError when it does not lie inside."""
    sizes = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride)
    if not isinstance(storage, Storage) or not sizes or not all(map(is_count, (offset, *shape, *stride))):
        raise UnreadableError("a pickle with a damaged description of a tensor")
    found = storage.dtype
    if dtype is not None:
        found = getattr(torch, dtype.name.removeprefix("torch."), None) if isinstance(dtype, Global) else None
    if not isinstance(found, torch.dtype):
        raise UnreadableError("a tensor of an unknown dtype", "save it as float32 or float16")
    stored = StoredTensor(storage, offset, shape, stride, found)
    available = storage.numel * storage.dtype.itemsize // found.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride))
    if stored.numel > available or (stored.numel and last >= available):
        raise UnreadableError(
            f"a tensor of shape {shape} that does not fit into its storage of {available} numbers"
        )
    return stored
