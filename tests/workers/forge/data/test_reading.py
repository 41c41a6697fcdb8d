import pytest

from tests.workers.forge.data.conftest import Write
from workers.forge.data.reading import Text, Turn, read
from workers.forge.refusing import Refused

ASKED = [{"role": "user", "content": "Why?"}]
ANSWERED = [{"role": "assistant", "content": "Because."}]
CHAT = (Turn("user", "Why?"), Turn("assistant", "Because."))


class TestShapes:
    @pytest.mark.parametrize(
        ("line", "content"),
        [
            ({"text": "Once upon a time"}, "Once upon a time"),
            ({"text": "Once", "title": "a tale"}, "Once"),
            ({"messages": ASKED + ANSWERED}, CHAT),
            ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]}, CHAT[:1]),
            ({"prompt": "2 + 2 =", "completion": " 4"}, "2 + 2 = 4"),
            ({"prompt": ASKED, "completion": ANSWERED}, CHAT),
        ],
    )
    def test_each_is_read(self, write: Write, line, content) -> None:
        assert read(write([line])) == [Text(content, "data.jsonl", 1)]

    def test_words_are_what_is_said(self, write: Write) -> None:
        text, chat = read(write([{"text": "Once"}, {"messages": ASKED + ANSWERED}]))
        assert (text.words, chat.words) == ("Once", "Why?\nBecause.")

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ({"input": "x", "output": "y"}, "it has input, output"),
            ({}, "it is empty"),
            ({"prompt": "alone"}, "it has prompt"),
            ({"text": 7}, "text is not a string"),
            ({"text": None}, "text is not a string"),
            ({"messages": []}, "messages is not a list of messages"),
            ({"messages": {"role": "user"}}, "messages is not a list of messages"),
            ({"messages": [*ASKED, {"role": "tool"}]}, "messages[1] needs a role and a content"),
            ({"messages": [{"role": "", "content": "x"}]}, "messages[0] needs a role"),
            (
                {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
                "messages[0] has a part that is not",
            ),
            ({"prompt": ASKED, "completion": "x"}, "completion is not a list"),
            ({"prompt": "x", "completion": ANSWERED}, "completion is not a string"),
            (["text"], "not an object"),
            (b'{"text": "half', "not JSON"),
            (b"{'text': 1}", "not JSON"),
            (b'{"text": "caf\xe9"}', "not UTF-8 at byte 14"),
            (rb'{"text": "\ud800"}', "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b'{"text": NaN}', "not JSON"),
        ],
    )
    def test_what_is_none_of_them_is_named(self, write: Write, line, reason) -> None:
        with pytest.raises(Refused) as refused:
            read(write([{"text": "good"}, line]))
        assert refused.value.code == "invalid_data"
        assert refused.value.title == "1 of the 2 lines of data.jsonl cannot be used"
        assert refused.value.detail.startswith(f"data.jsonl: line 2: {reason}") or reason in refused.value.detail


class TestLines:
    def test_byte_order_mark_carriage_returns_and_blank_lines_are_let_be(self, write: Write) -> None:
        data = write([b'\xef\xbb\xbf{"text": "one"}\r', b"\r", b"", b'  {"text": "two"}\r', b"\t"])
        assert [(text.content, text.line) for text in read(data)] == [("one", 1), ("two", 4)]

    def test_last_line_needs_no_end(self, write: Write) -> None:
        data = write([])
        data.path.write_bytes(b'{"text": "one"}\n{"text": "two"}')
        assert [text.content for text in read(data)] == ["one", "two"]

    def test_line_separators_of_unicode_are_text(self, write: Write) -> None:
        data = write(['{"text": "a\u2028b\u0085c"}'.encode()])
        assert [text.content for text in read(data)] == ["a\u2028b\u0085c"]

    def test_first_eight_bad_lines_are_named_and_all_counted(self, write: Write) -> None:
        lines = [{"text": "good"} if number % 2 else b"bad" for number in range(1, 101)]
        with pytest.raises(Refused) as refused:
            read(write(lines))
        assert refused.value.title == "50 of the 100 lines of data.jsonl cannot be used"
        named = [f"line {number}:" for number in range(2, 18, 2)]
        assert [part in refused.value.detail for part in named] == [True] * 8
        assert "line 18:" not in refused.value.detail
        assert refused.value.detail.endswith("; and 42 more")

    @pytest.mark.parametrize("content", [b"", b"\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
    def test_file_without_lines_has_no_texts(self, write: Write, content) -> None:
        data = write([])
        data.path.write_bytes(content)
        assert read(data) == []
