import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ranges import RangeNotSatisfiable, Slice, wanted


class TestWanted:
    @pytest.mark.parametrize(
        ("header", "start", "length"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=3-5", 3, 3),
            ("bytes=7-", 7, 3),
            ("bytes=-4", 6, 4),
            ("bytes=-99", 0, 10),
            ("bytes=8-99", 8, 2),
            ("bytes= 0-9 ", 0, 10),
        ],
    )
    def test_one_range(self, header, start, length):
        assert wanted(header, 10) == Slice(start, length, 10, partial=True)

    @pytest.mark.parametrize(
        "header",
        [None, "", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=٣-٥"],
    )
    def test_anything_else_means_the_whole(self, header):
        assert wanted(header, 10) == Slice(0, 10, 10, partial=False)

    @pytest.mark.parametrize(
        ("header", "size"), [("bytes=10-", 10), ("bytes=10-20", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
    )
    def test_what_does_not_exist(self, header, size):
        with pytest.raises(RangeNotSatisfiable):
            wanted(header, size)

    def test_content_range(self):
        assert wanted("bytes=3-5", 10).content_range == "bytes 3-5/10"

    @given(st.text(max_size=20) | st.from_regex(r"bytes=\d{0,20}-\d{0,20}", fullmatch=True), st.integers(0, 10**12))
    def test_never_more_than_there_is(self, header, size):
        try:
            found = wanted(header, size)
        except RangeNotSatisfiable:
            return
        assert 0 <= found.start <= found.start + found.length <= size
