"""The input file, line by line."""

from pathlib import Path

import pytest

from services.inference import input as source
from services.inference.input import BadInput


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "input.jsonl"


class TestRead:
    def test_prompts_and_chats_come_as_they_are_kept(self, file: Path) -> None:
        file.write_text('{"prompt": "ä"}\n\n{"messages": [{"role": "user", "content": "b"}]}')
        assert list(source.read(file)) == [
            {"prompt": "ä"},
            {"messages": [{"role": "user", "content": "b"}]},
        ]

    @pytest.mark.parametrize(
        ("content", "code", "told"),
        [
            (b"", "empty_file", "no lines"),
            (b"\n \n", "empty_file", "no lines"),
            (b'\xef\xbb\xbf{"prompt": "a"}\n', "byte_order_mark", "line 1"),
            (b'{"prompt": "a"}\n{"prompt": \n', "invalid_json", "line 2"),
            (b'{"prompt": "a"}\n\x00\n', "invalid_json", "line 2"),
            (b'{"prompt": "\xff"}\n', "invalid_json", "line 1"),
            (b'\n{"prompt": "a\\u0000"}\n', "invalid_line", "line 2: prompt"),
            (b'{"prompt": "a", "model": "x"}\n', "invalid_line", "line 1: model"),
            (b'{"prompt": "a", "messages": []}\n', "invalid_line", "line 1: messages"),
            (b"{}\n", "invalid_line", "line 1"),
            (b"[" * 100_000 + b"\n", "invalid_json", "line 1"),
            (b'"a"\n', "invalid_line", "line 1"),
        ],
    )
    def test_a_bad_line_is_told_by_number_and_code(self, file: Path, content: bytes, code: str, told: str) -> None:
        file.write_bytes(content)
        with pytest.raises(BadInput) as refused:
            list(source.read(file))
        assert refused.value.code == code
        assert refused.value.detail.startswith(told) or told in refused.value.detail

    def test_a_line_may_be_as_long_as_the_limit(self, file: Path) -> None:
        frame = len(b'{"prompt": ""}')
        file.write_bytes(b'{"prompt": "' + b"x" * (source.LINE_BYTES - frame) + b'"}\n')
        assert len(list(source.read(file))) == 1
        file.write_bytes(b'{"prompt": "' + b"x" * (source.LINE_BYTES - frame + 1) + b'"}')
        with pytest.raises(BadInput, match="line 1: more than"):
            list(source.read(file))

    def test_no_more_lines_than_the_limit(self, file: Path) -> None:
        file.write_bytes(b'{"prompt": "a"}\n' * (source.LINES + 1))
        with pytest.raises(BadInput, match="more than 50000 lines"):
            for _ in source.read(file):
                pass
