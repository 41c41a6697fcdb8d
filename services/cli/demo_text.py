"""Questions for the demo's job: what the paragraphs of our own documentation are about."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from shared.embedded.roles import ROOT

SOURCES = ("README.md", "CONTRIBUTING.md", "infra/docs/*.md", "infra/docs/decisions/*.md")
GENERATED = "reference.md"  # tables, hardly a sentence
LENGTHS = range(60, 1500)  # characters of a paragraph that is worth a question


@dataclass(frozen=True)
class Question:
    """One line of the job: which file it is from, and the chat that is sent."""

    source: str
    text: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat."""
        return [{"role": "user", "content": f"Explain this: {self.text}"}]


def questions(limit: int, *, root: Path = ROOT) -> list[Question]:
    """Up to `limit` questions, one a paragraph, taken from the files in turn; none outside a checkout."""
    files = [path for pattern in SOURCES for path in sorted(root.glob(pattern)) if path.name != GENERATED]
    columns = [[Question(str(path.relative_to(root)), text) for text in paragraphs(path.read_text())] for path in files]
    return [found for row in zip_longest(*columns) for found in row if found is not None][:limit]


def paragraphs(markdown: str) -> Iterator[str]:
    """The sentences of a Markdown text, paragraph by paragraph: no headings, tables, code blocks or markup."""
    without_code = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n", without_code):
        if block.lstrip().startswith(("#", "|", "<!--", "    ")):
            continue
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", block)  # links keep their words
        text = " ".join(re.sub(r"[*`]", "", re.sub(r"^\s*(?:-|\d+\.)\s+", "", text, flags=re.MULTILINE)).split())
        if len(text) in LENGTHS:
            yield text
