import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from services.catalog.tensors import Tensor, UnsafeModel, dtype_of, parse_header

ROW = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def packed(header: object, data: bytes = b"\0" * 16, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def read_header(path: Path) -> tuple[Tensor, ...]:
    with path.open("rb") as file:
        return parse_header(file, name=path.name, size=path.stat().st_size)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


class TestReadHeader:
    def test_tensors_in_the_order_of_their_data(self, file: Path):
        rows = {"b": {**ROW, "data_offsets": [16, 32]}, "a": ROW, "__metadata__": {"format": "pt"}}
        file.write_bytes(packed(rows, b"\0" * 32))
        tensors = read_header(file)
        assert [tensor.name for tensor in tensors] == ["a", "b"]
        assert sum(tensor.elements for tensor in tensors) == 8
        assert dtype_of(tensors) == "fp32"

    def test_the_packaged_model_is_read_as_its_library_reads_it(self):
        safetensors = pytest.importorskip("safetensors")
        path = Path("infra/models/yard-tiny/model.safetensors")
        with safetensors.safe_open(path, framework="np") as opened:
            expected = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        assert {tensor.name: tensor.shape for tensor in read_header(path)} == expected

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"short",
            packed({"a": ROW}, length=2**63),
            packed({"a": ROW}, length=10**8 + 1),
            packed({"a": ROW}, length=1),
            packed(b"[1, 2]", b""),
            packed(b"\x80\x04K\x01.", b""),
            packed(b"{" + b"[" * 5000, b""),
            packed(b'{"a": %s, "a": %s}' % ((json.dumps(ROW).encode(),) * 2)),
            packed({"a": ROW}, b"\0" * 15),
            packed({"a": ROW}, b"\0" * 17),
            packed({"a": {**ROW, "data_offsets": [4, 20]}}, b"\0" * 20),
            packed({"a": ROW, "b": ROW}),
            packed({"a": ROW, "b": {**ROW, "data_offsets": [8, 24]}}, b"\0" * 24),
            packed({"a": {**ROW, "shape": [3, 2]}}),
            packed({"a": {**ROW, "shape": [-2, -2]}}),
            packed({"a": {**ROW, "shape": [2.0, 2]}}),
            packed({"a": {**ROW, "dtype": "OBJECT"}}),
            packed({"a": {**ROW, "data_offsets": [16, 0]}}),
            packed({"a": {**ROW, "data_offsets": [0]}}),
            packed({"a": {**ROW, "data_offsets": [True, 16]}}),
            packed({"a": []}),
            packed({"a": {"dtype": "F32"}}),
        ],
    )
    def test_what_is_not_exactly_a_safetensors_file(self, file: Path, content: bytes):
        file.write_bytes(content)
        with pytest.raises(UnsafeModel):
            read_header(file)

    @given(content=st.binary(max_size=200) | st.builds(packed, st.binary(max_size=60)))
    @hypothesis(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_any_bytes_are_read_or_refused(self, file: Path, content: bytes):
        file.write_bytes(content)
        try:
            tensors = read_header(file)
        except UnsafeModel:
            return
        assert sum(tensor.end - tensor.start for tensor in tensors) <= len(content)


class TestDtype:
    def test_the_most_numbers_decide(self, file: Path):
        rows = {
            "scale": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "weight": {"dtype": "I8", "shape": [8], "data_offsets": [8, 16]},
        }
        file.write_bytes(packed(rows))
        assert dtype_of(read_header(file)) == "int8"
