"""The reader of a batch's file: what it refuses, by code, line and field, and what it keeps."""

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.batches import input as source
from services.batches.input import BadFile
from shared.contracts.batches import CUSTOM_ID, LINE_BYTES, LINES, MODELS, PROBLEMS, Problem
from tests.services.batches.build import CHAT, body, envelope, file, jsonl

GOOD = jsonl(envelope(0))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
CONTENT = st.one_of(st.binary(max_size=400), TEXT.map(str.encode))
SECRET = "the-secret-of-the-line"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "input.jsonl"


def problems(path: Path, content: bytes, *, endpoint: str = CHAT) -> list[Problem]:
    path.write_bytes(content)
    with pytest.raises(BadFile) as caught:
        source.read(path, endpoint=endpoint)
    return list(caught.value.problems)


def deep(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels - 3):  # the line, its body, and the field
        value = [value]
    return envelope(1, body={"model": "tiny", "x": {"y": value}})


BYTES: list[tuple[bytes, str, str | None]] = [
    (b"{not json", "invalid_json", None),
    (b'{"custom_id": "a"', "invalid_json", None),
    (b'["a"]', "invalid_line", None),
    (b"7", "invalid_line", None),
    (b'{"custom_id": "\xff\xfe"}', "invalid_utf8", None),
    (b'{"custom_id": "a\x00b"}', "nul_character", None),
    (b'{"custom_id": "a\\u0000b"}', "nul_character", None),
    (b'{"custom_id": "a\\\\\\u0000b"}', "nul_character", None),
    (b'{"custom_id": "\\ud800"}', "lone_surrogate", None),
    (b'{"custom_id": NaN}', "invalid_number", None),
    (b'{"custom_id": -Infinity}', "invalid_number", None),
    (b'{"custom_id": 1e999}', "invalid_number", None),
    (b"[" * 5000 + b"]" * 5000, "too_deep", None),
    (orjson.dumps(deep(33)), "too_deep", None),
    (b'{"x": "' + b"a" * LINE_BYTES + b'"}', "line_too_long", None),
]

ENVELOPES: list[tuple[dict[str, Any], str, str]] = [
    (envelope(1, custom_id=None), "missing_required_parameter", "custom_id"),
    (envelope(1, method=None), "missing_required_parameter", "method"),
    (envelope(1, url=None), "missing_required_parameter", "url"),
    (envelope(1, body=None), "missing_required_parameter", "body"),
    (envelope(0), "duplicate_custom_id", "custom_id"),
    (envelope(1, custom_id=7), "invalid_custom_id", "custom_id"),
    (envelope(1, custom_id=""), "invalid_custom_id", "custom_id"),
    (envelope(1, custom_id="x" * (CUSTOM_ID + 1)), "invalid_custom_id", "custom_id"),
    (envelope(1, method="GET"), "invalid_method", "method"),
    (envelope(1, method="post"), "invalid_method", "method"),
    (envelope(1, url="/v1/completions"), "invalid_url", "url"),
    (envelope(1, url=f"{CHAT}/"), "invalid_url", "url"),
    (envelope(1, body="x"), "invalid_body", "body"),
    (envelope(1, body=[]), "invalid_body", "body"),
    (envelope(1, body=body(stream=True)), "unsupported_parameter", "body.stream"),
    (envelope(1, colour=1), "unknown_parameter", "colour"),
]


class TestProblems:
    @pytest.mark.parametrize(("line", "code", "param"), BYTES)
    def test_a_line_that_is_not_ours_to_read(self, path: Path, line: bytes, code: str, param: str | None) -> None:
        (found,) = problems(path, GOOD + line + b"\n" + jsonl(envelope(2)))
        assert (found.code, found.line, found.param) == (code, 2, param)

    @pytest.mark.parametrize(("line", "code", "param"), ENVELOPES)
    def test_an_envelope_that_is_not_one(self, path: Path, line: dict[str, Any], code: str, param: str) -> None:
        (found,) = problems(path, GOOD + jsonl(line, envelope(2)))
        assert (found.code, found.line, found.param) == (code, 2, param)

    def test_a_byte_order_mark(self, path: Path) -> None:
        (found,) = problems(path, b"\xef\xbb\xbf" + GOOD)
        assert (found.code, found.line) == ("byte_order_mark", 1)

    @pytest.mark.parametrize("content", [b"", b"\n", b" \n\r\n\t"])
    def test_a_file_without_lines(self, path: Path, content: bytes) -> None:
        (found,) = problems(path, content)
        assert (found.code, found.line) == ("empty_file", None)

    def test_one_line_too_many(self, path: Path) -> None:
        line = b'{"custom_id":"%d","method":"POST","url":"%b","body":{}}\n'
        lines = b"".join(line % (number, CHAT.encode()) for number in range(LINES))
        path.write_bytes(lines)
        assert len(source.read(path, endpoint=CHAT).index) == LINES
        (found,) = problems(path, lines + b"\n" + GOOD)
        assert (found.code, found.line) == ("too_many_lines", LINES + 2)

    def test_a_file_that_is_too_large_is_not_read(self, path: Path) -> None:
        with path.open("wb") as sparse:
            sparse.truncate(200 * 1024**2 + 1)
        with pytest.raises(BadFile) as caught:
            source.read(path, endpoint=CHAT)
        assert [problem.code for problem in caught.value.problems] == ["file_too_large"]

    def test_lines_that_are_refused_are_not_kept(self, path: Path) -> None:
        line = b'{"x":' + b"[" * 40 + b'"' + b"a" * 500_000 + b'"' + b"]" * 40 + b"}\n"
        tracemalloc.start()
        try:
            codes = {problem.code for problem in problems(path, line * 10)}
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert codes == {"too_deep"}
        assert kept < len(line)

    def test_a_line_of_the_longest_length_is_read(self, path: Path) -> None:
        frame = len(orjson.dumps(envelope(0, body=body(""))))
        line = jsonl(envelope(0, body=body("a" * (LINE_BYTES - frame))))
        assert len(line) == LINE_BYTES + 1  # the newline is not counted
        path.write_bytes(line)
        assert len(source.read(path, endpoint=CHAT).index) == 1

    def test_texts_of_a_whole_batch_of_embeddings(self, path: Path) -> None:
        texts = {"model": "tiny", "input": ["a"] * 2048}
        lines = [envelope(n, url="/v1/embeddings", body=texts) for n in range(25)]
        (found,) = problems(path, jsonl(*lines), endpoint="/v1/embeddings")
        assert (found.code, found.line, found.param) == ("too_many_inputs", 25, "body.input")

    def test_more_models_than_a_batch_may_name(self, path: Path) -> None:
        lines = [envelope(n, body=body(model=f"model-{n}")) for n in range(MODELS + 1)]
        (found,) = problems(path, jsonl(*lines))
        assert (found.code, found.line, found.param) == ("too_many_models", MODELS + 1, "body.model")

    def test_every_problem_is_told_up_to_a_hundred(self, path: Path) -> None:
        bad = jsonl(*(envelope(n, method="GET") for n in range(30)))
        assert [found.line for found in problems(path, GOOD + b"\n" + bad)] == list(range(3, 33))
        many = jsonl(*(envelope(n, method="GET") for n in range(300)))
        assert len(problems(path, many)) == PROBLEMS

    def test_what_the_line_says_is_not_repeated(self, path: Path) -> None:
        lines = (
            {SECRET: 1}, {f"{SECRET} \x1b[31m": 1}, envelope(1, custom_id=SECRET * 100), envelope(2, method=SECRET),
            envelope(3, url=SECRET), envelope(4, body=SECRET), envelope(5, body=body(stream=SECRET)),
        )  # fmt: skip
        told = [found.message for found in problems(path, jsonl(*lines) + b'{"a": "%b\n' % SECRET.encode())]
        assert len(told) == len(lines) + 1
        assert SECRET not in "".join(told)

    @settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(content=CONTENT)
    def test_whatever_comes_is_read_or_refused(self, path: Path, content: bytes) -> None:
        for found in problems(path, content + b"\n" + b"x"):
            assert found.code
            assert found.line is None or found.line >= 1


class TestLines:
    def test_blank_lines_are_skipped_but_counted(self, path: Path) -> None:
        path.write_bytes(b"\n" + GOOD + b"   \r\n" + jsonl(envelope(1)).replace(b"\n", b"\r\n"))
        lines = source.read(path, endpoint=CHAT)
        assert len(lines.index) == 2
        assert lines.models == {"tiny": 2}

    def test_a_line_is_read_again_as_it_stands(self, path: Path) -> None:
        path.write_bytes(b"\n" + jsonl(*(envelope(n) for n in range(5))).rstrip())
        lines = source.read(path, endpoint=CHAT)
        found = list(lines.requests([4, 1]))
        assert [each.custom_id for each in found] == ["line-4", "line-1"]
        assert found[1].body == body("line 1")

    def test_a_body_is_nobodys_business_yet(self, path: Path) -> None:
        """Whatever is wrong with it is an error of its line, when that is run."""
        odd: list[dict[str, Any]] = [{}, {"model": 7}, {"model": "nothing", "messages": "x"}, body(temperature="hot")]
        path.write_bytes(jsonl(*(envelope(n, body=each) for n, each in enumerate(odd))))
        lines = source.read(path, endpoint=CHAT)
        assert len(lines.index) == 4
        assert lines.models == {None: 1, "nothing": 3, "tiny": 4}

    def test_what_is_escaped_is_no_nul(self, path: Path) -> None:
        path.write_bytes(GOOD.replace(b"line-0", b"line\\\\u0000"))
        (found,) = source.read(path, endpoint=CHAT).requests([0])
        assert found.custom_id == "line\\u0000"

    def test_pairs_of_surrogates_and_the_deepest_line_are_read(self, path: Path) -> None:
        path.write_bytes(GOOD.replace(b"line 0", b"\\ud83d\\ude00") + jsonl(deep(32)))
        lines = source.read(path, endpoint=CHAT)
        first, _ = lines.requests([0, 1])
        assert first.body["messages"][0]["content"] == "😀"

    def test_what_is_kept_of_a_line_does_not_grow_with_it(self, path: Path) -> None:
        path.write_bytes(file(2) + jsonl(envelope(2, body=body("a" * 1_000_000))))
        lines = source.read(path, endpoint=CHAT)
        assert len(lines.index.beginnings(2)) == 4 * 14
