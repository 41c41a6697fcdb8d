"""How long a text is in tokens, and where each token begins."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

CHARACTERS: Final = 4  #: of a token, where there is no tokenizer: English prose has 4 to 5, most else fewer


class Measure(ABC):
    """A way of counting tokens."""

    @abstractmethod
    def starts(self, text: str) -> Sequence[int]:
        """Offset of the first character of each token, ascending."""

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.starts(text))


class Characters(Measure):
    """Four characters a token, a remainder counts as one."""

    def starts(self, text: str) -> Sequence[int]:
        return range(0, len(text), CHARACTERS)


class Tokens(Measure):
    """Tokens of a model, without special tokens."""

    def __init__(self, tokenizer_json: Path) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def starts(self, text: str) -> Sequence[int]:
        return [start for start, _ in self._tokenizer.encode(text, add_special_tokens=False).offsets]

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))
