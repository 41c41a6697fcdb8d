"""The header of a safetensors file, read without a loader and believed only after it has been checked.

Format: 8 bytes little-endian header length, a JSON header, the data (github.com/huggingface/safetensors,
README). The checks are those of its own reader, plus: no key twice, no hole, no byte behind the last tensor,
so that a file cannot be something else besides.
"""

import json
import math
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shared.errors import Unprocessable

HEADER_BYTES = 100_000_000  # the format's own bound
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
#: the class table's words for what weights are kept in
DTYPES = {"F32": "fp32", "BF16": "bf16", "F16": "fp16", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8", "U8": "int8"}


class UnsafeModel(Unprocessable):
    """The model holds something that we do not load."""

    code = "unsafe_model"


class Readable(Protocol):
    """Bytes that are read from their beginning."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes; fewer at the end alone."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: its dtype as safetensors spells it, its shape, its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def parse_header(file: Readable, *, name: str, size: int) -> tuple[Tensor, ...]:
    """The tensors of a safetensors file of `size` bytes, in the order of their data. Reads no further than its header.

    Raises:
        UnsafeModel: the file is not exactly what its header says.
    """
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
    if not 2 <= length <= min(HEADER_BYTES, size - 8):
        raise UnsafeModel(f"{name}: the header's length is wrong", param=name)
    text = file.read(length)
    if not text.startswith(b"{"):
        raise UnsafeModel(f"{name}: the header is no JSON object", param=name)
    try:
        header = json.loads(text, object_pairs_hook=_once)
        tensors = tuple(sorted((_tensor(key, row) for key, row in header.items() if key != "__metadata__"), key=_place))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnsafeModel(f"{name}: the header cannot be read", param=name) from error
    _check_layout(name, tensors, size - 8 - length)
    return tensors


def dtype_of(tensors: Sequence[Tensor]) -> str:
    """What most of the weights are kept in: bf16, fp16, fp32, fp8, int8; anything else as safetensors spells it."""
    count: Counter[str] = Counter()
    for tensor in tensors:
        count[tensor.dtype] += tensor.elements
    found = max(count, key=lambda name: count[name], default="F32")
    return DTYPES.get(found, found.lower())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _tensor(name: str, row: dict[str, Any]) -> Tensor:
    (start, end), shape = row["data_offsets"], row["shape"]
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)) or row["dtype"] not in BITS:
        raise ValueError(name)
    return Tensor(name, row["dtype"], tuple(shape), start, end)


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.start, tensor.end


def _check_layout(file: str, tensors: Sequence[Tensor], data_bytes: int) -> None:
    position = 0
    for tensor in tensors:
        bits = tensor.elements * BITS[tensor.dtype]
        if tensor.start != position or bits != (tensor.end - tensor.start) * 8:
            raise UnsafeModel(f"{file}: tensor {tensor.name[:80]!r} does not lie where it should", param=file)
        position = tensor.end
    if position != data_bytes:
        raise UnsafeModel(f"{file}: {data_bytes - position} bytes belong to no tensor", param=file)
