"""Chunks: nothing is lost, nothing is too long, cuts fall where a reader would make them."""

import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.documents.chunks import Chunker
from workers.documents.types import Chunk, Page

TOKENIZER = Path(__file__).parents[3] / "infra/models/yard-tiny/tokenizer.json"
BY_CHARACTERS, BY_TOKENS = Chunker(None), Chunker(TOKENIZER)

words = st.text(st.characters(codec="utf-8", exclude_characters="\f"), max_size=60)
texts = st.lists(
    words | st.sampled_from(["\n\n", ". ", "\n", "Word and word. ", "x" * 300, "日本語。", "é👩‍👩‍👧"]), max_size=40
)
documents = st.lists(texts.map("".join), max_size=6).map(
    lambda pages: [Page(number, text) for number, text in enumerate(pages, start=1)]
)


def paragraphs(count: int) -> str:
    return "\n\n".join(f"Paragraph {n} says this. It says that, too, at some length." for n in range(count))


def covered(chunks: list[Chunk], page: Page) -> bool:
    """Whether the chunks' spans hold every character of the page, as it stands there."""
    seen = [False] * len(page.text)
    for chunk in chunks:
        for span in chunk.spans:
            if span.page == page.number:
                taken = slice(span.at, span.at + span.end - span.start)
                assert chunk.text[span.start : span.end] == page.text[taken]
                seen[taken] = [True] * (span.end - span.start)
    return all(seen)


class TestAnyText:
    @pytest.mark.parametrize("chunker", [BY_CHARACTERS, BY_TOKENS], ids=["characters", "tokens"])
    @settings(deadline=None)
    @given(pages=documents, tokens=st.integers(16, 80), overlap=st.integers(0, 100))
    def test_every_character_is_in_a_chunk_that_is_short_enough(
        self, chunker: Chunker, pages: list[Page], tokens: int, overlap: int
    ) -> None:
        chunks = chunker.cut(pages, tokens=tokens, overlap=overlap)
        assert all(covered(chunks, page) for page in pages)
        assert all(chunk.tokens == chunker.count(chunk.text) <= tokens for chunk in chunks)
        assert [chunk.number for chunk in chunks] == list(range(1, len(chunks) + 1))

    def test_no_text_gives_no_chunk(self) -> None:
        assert BY_TOKENS.cut([Page(1, ""), Page(2, "")], tokens=64, overlap=8) == []

    def test_what_makes_no_sense_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 16 tokens"):
            BY_TOKENS.cut([Page(1, "text")], tokens=8, overlap=0)
        with pytest.raises(ValueError, match="not negative"):
            BY_TOKENS.cut([Page(1, "text")], tokens=64, overlap=-1)


class TestPlaces:
    def test_a_document_that_fits_is_one_chunk(self) -> None:
        [chunk] = BY_TOKENS.cut([Page(1, "One."), Page(2, "Two.")], tokens=64, overlap=16)
        assert chunk.text == "One.\n\nTwo."
        assert [(span.page, chunk.text[span.start : span.end]) for span in chunk.spans] == [(1, "One."), (2, "Two.")]

    def test_paragraphs_stay_whole(self) -> None:
        chunks = BY_TOKENS.cut([Page(1, paragraphs(200))], tokens=128, overlap=0)
        assert len(chunks) > 20
        assert all(chunk.text.startswith("Paragraph") for chunk in chunks)
        assert all(chunk.text.endswith("length.\n\n") for chunk in chunks[:-1])

    def test_without_paragraphs_sentences_stay_whole(self) -> None:
        text = " ".join(f"Sentence number {n} is not short at all." for n in range(300))
        chunks = BY_TOKENS.cut([Page(1, text)], tokens=96, overlap=0)
        assert len(chunks) > 20
        assert all(chunk.text.startswith("Sentence") for chunk in chunks)

    def test_without_sentences_words_stay_whole(self) -> None:
        chunks = BY_TOKENS.cut([Page(1, "market " * 2000)], tokens=96, overlap=24)
        assert all(set(chunk.text.split()) == {"market"} for chunk in chunks)

    def test_a_page_ends_a_chunk_where_it_can(self) -> None:
        pages = [Page(n, f"Page {n} " + "with words " * 20) for n in range(1, 30)]
        chunks = BY_TOKENS.cut(pages, tokens=160, overlap=0)
        assert all(chunk.text.startswith("Page") for chunk in chunks)

    def test_chunks_are_filled(self) -> None:
        chunks = BY_TOKENS.cut([Page(1, paragraphs(400))], tokens=256, overlap=32)
        assert all(chunk.tokens > 256 * 2 // 3 for chunk in chunks[:-1])


class TestOverlap:
    def test_neighbours_share_about_that_much(self) -> None:
        chunks = BY_TOKENS.cut([Page(1, paragraphs(400))], tokens=256, overlap=64)
        for chunk, after in pairwise(chunks):
            [left], [right] = chunk.spans, after.spans
            shared = chunk.text[right.at - left.at :]
            assert after.text.startswith(shared)
            assert 16 <= BY_TOKENS.count(shared) <= 64

    def test_more_than_half_of_a_chunk_is_cut_to_half(self) -> None:
        pages = [Page(1, paragraphs(100))]
        assert BY_TOKENS.cut(pages, tokens=128, overlap=4096) == BY_TOKENS.cut(pages, tokens=128, overlap=64)


class TestPages:
    def test_a_character_knows_its_page(self) -> None:
        pages = [Page(n, f"Page {n}.") for n in (1, 2, 3)]
        [chunk] = BY_TOKENS.cut([*pages, Page(4, "")], tokens=64, overlap=0)
        assert chunk.pages == (1, 2, 3)
        assert [chunk.page_at(chunk.text.index(page.text)) for page in pages] == [1, 2, 3]


class TestLinear:
    @pytest.mark.parametrize("piece", ["x", "ab", "\n", " ", ". ", "日", '."'], ids=repr)
    def test_megabytes_of_the_same_take_as_long_as_prose(self, piece: str) -> None:
        """Eight times the text may take at most sixteen times as long; a quadratic step takes sixty-four times."""
        short, long = (self.seconds(piece, characters) for characters in (50_000, 400_000))
        assert long < 16 * short + 0.5

    @staticmethod
    def seconds(piece: str, characters: int) -> float:
        pages = [Page(1, piece * (characters // len(piece)))]
        began = time.process_time()
        chunks = BY_TOKENS.cut(pages, tokens=1024, overlap=64)
        assert covered(chunks, pages[0])
        return time.process_time() - began
