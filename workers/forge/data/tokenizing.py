"""From texts and chats to token ids, as the model's own tokenizer wants them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from workers.forge.data.reading import Text
from workers.forge.data.templates import ChatRefused, Renderer
from workers.forge.refusing import Refused

CHARACTERS_PER_TOKEN = 4  # of English prose and code; a guess that costs time alone


class Log(Protocol):
    """Where lines for the job's log go."""

    def log(self, message: str) -> None:
        """Say it."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text as the tokenizer gets it."""

    text: str
    chat: bool


class Encoder:
    """A tokenizer, and what it puts around a text.

    A chat goes through the chat template, which writes its own special tokens. A model without one sees a chat as plain
    text, a line `role: content` for each message. A special token that a text spells out is that token, as everywhere
    in transformers.
    """

    def __init__(self, tokenizer: Any, *, tell: Log) -> None:
        self._tokenizer = tokenizer
        self._tell = tell
        self._renderer = Renderer(tokenizer)
        self._told: set[str] = set()
        #: what the tokenizer puts before and after a text
        self.prefix, self.suffix = _frame(tokenizer)
        eos: int | None = tokenizer.eos_token_id
        self._eos = [] if eos is None else [eos]
        #: attention masks hide it
        self.pad: int = next((each for each in (tokenizer.pad_token_id, eos) if each is not None), 0)

    def render(self, text: Text) -> Rendered | None:
        """The plain text; None when the chat template refuses the chat.

        Raises:
            Refused: `unsupported_model`, when the template takes too long.
        """
        if isinstance(text.content, str):
            return Rendered(text.content, chat=False)
        if self._renderer.template is None:
            self._say_once(
                "plain", "the model has no chat template: chats are plain text, `role: content` line by line"
            )
            return Rendered("\n".join(f"{turn.role}: {turn.content}" for turn in text.content), chat=False)
        try:
            return Rendered(self._renderer.render(text.content, answered=True), chat=True)
        except ChatRefused as error:
            self._say_once("refused", f"the chat template refuses {text.source}, line {text.line}: {error}")
            return None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids without what belongs around them."""
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def separated(self, ids: list[int], rendered: Rendered) -> list[int]:
        """A run that another may follow: BOS where the tokenizer wants one, and EOS at the end."""
        if rendered.chat:
            ended = bool(self._eos) and rendered.text.rstrip().endswith(self._tokenizer.eos_token)
            return ids if ended else ids + self._eos
        return self.prefix + ids + (self.suffix or self._eos)

    def alone(self, ids: list[int], rendered: Rendered, *, length: int) -> list[int]:
        """A run of its own, cut to `length` within what the tokenizer puts around a text."""
        if rendered.chat:
            return ids[:length]
        return self.prefix + ids[: length - len(self.prefix) - len(self.suffix)] + self.suffix

    def _say_once(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell.log(message)


def check_known(largest: int, vocabulary: int) -> None:
    """Look at the largest id of some tokens: a tokenizer may have got more of them than the model has rows for.

    Raises:
        Refused: `unsupported_model`.
    """
    if largest >= vocabulary:
        title = "The tokenizer has tokens that the model does not know"
        raise Refused("unsupported_model", title, f"token {largest}; the model's vocabulary has {vocabulary}")


def pieces(text: str, *, tokens: int) -> list[str]:
    """Parts of a text of about `tokens` tokens each, cut behind white space where there is some in the second half."""
    size = tokens * CHARACTERS_PER_TOKEN
    cuts = [0]
    while len(text) - cuts[-1] > size + size // 2:  # no crumbs
        window = text[cuts[-1] : cuts[-1] + size]
        behind = max(window.rfind("\n"), window.rfind(" ")) + 1
        cuts.append(cuts[-1] + (behind if behind > size // 2 else size))
    return [text[start:end] for start, end in pairwise([*cuts, len(text)])]


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []
