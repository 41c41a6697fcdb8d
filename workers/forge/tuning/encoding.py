"""From examples to token ids and the tokens that are learned, exactly as an engine will ask for them.

`conversations` cuts chats into what is learned and what is not.

**What is learned of an answer** is all of it up to the first token that ends a generation: what templates write behind
it, a line break say, no engine generates. Where there is no such token behind the last answer, one is put there. Texts
and completions end with one.

**Tokens.** What is learned is tokenized apart from what is before it, as it is generated apart from it: no token
crosses the border. Tokenizers that put a space before a text (SentencePiece's dummy prefix) do so only at its start.
BOS stands where the tokenizer puts it before a text, and in chats where their template puts it. The first token of a
sample is never learned: nothing predicts it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.contracts.tuning import LossOn
from workers.forge.data.tokenizing import Encoder, Log, check_known
from workers.forge.tuning.conversations import Conversations, Piece
from workers.forge.tuning.examples import Chat, Completion, Example

# T tokens of a sample

_ANCHOR = "\n"  # of no token together with what follows, in the vocabularies that need one


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """T tokens of one example, and which of them are learned."""

    ids_T: NDArray[np.int32]  # noqa: N815 - a tensor's name
    loss_T: NDArray[np.bool_]  # noqa: N815


@dataclass(frozen=True)
class Ends:
    """Tokens that end a generation: by `generation_config.json`, or the tokenizer. `chosen` is put behind texts."""

    ids: frozenset[int]
    chosen: int | None
    texts: tuple[str, ...]  #: as they are spelled

    @classmethod
    def of(cls, folder: Path, tokenizer: Any) -> "Ends":
        """Those of a checkpoint, as an engine reads them."""
        told = next(filter(None, (_eos(folder / name) for name in ("generation_config.json", "config.json"))), [])
        own = tokenizer.eos_token_id
        ids = told or ([] if own is None else [own])
        chosen = own if own in ids else next(iter(ids), None)
        return cls(frozenset(ids), chosen, tuple(filter(None, tokenizer.convert_ids_to_tokens(ids))))


class SampleEncoder:
    """Tokenizes examples; `problems` says of those without a sample why they have none."""

    def __init__(self, tokenizer: Any, folder: Path, *, loss_on: LossOn, tell: Log) -> None:
        self._encoder = Encoder(tokenizer, tell=tell)
        self._ends = Ends.of(folder, tokenizer)
        self._conversations = Conversations(tokenizer, loss_on=loss_on, tell=tell)
        self._loss_on = loss_on
        self._vocabulary = _vocabulary(folder)
        self._anchor = self._dummy_anchor()

    @property
    def problems(self) -> dict[str, str]:
        """By the example's place."""
        return self._conversations.problems

    def encode(self, examples: Sequence[Example]) -> list[list[Sample]]:
        """The samples of every example: one, none when the chat template refuses it, several by some templates.

        Raises:
            Refused: `unsupported_model`: its chat template takes too long, knows no tools, or hides where answers are;
                or its tokenizer has tokens that the model does not know.
        """
        pieces = self._pieces(examples)
        ids = iter(self._tokenized([piece for samples in pieces for sample in samples for piece in sample]))
        return [
            [self._sample(sample, [next(ids) for _ in sample], example) for sample in samples]
            for example, samples in zip(examples, pieces, strict=True)
        ]

    def _pieces(self, examples: Sequence[Example]) -> list[list[list[Piece]]]:
        told = [(example, example.content) for example in examples if isinstance(example.content, Chat)]
        chats = self._conversations.pieces(told)
        found: list[list[list[Piece]]] = []
        for example in examples:
            match example.content:
                case Chat():
                    found.append([sample for sample in next(chats) if sample])
                case Completion(prompt=prompt, completion=completion):
                    every = self._loss_on is LossOn.ALL
                    asked = [Piece(prompt, learned=every, follows=False)] if prompt else []
                    found.append([[*asked, Piece(completion, learned=True, follows=bool(prompt))]])
                case text:
                    found.append([[Piece(text, learned=True, follows=False)]])
        return found

    def _tokenized(self, pieces: Sequence[Piece]) -> Iterator[list[int]]:
        anchor, mark = self._anchor
        follow = [bool(mark) and piece.follows for piece in pieces]
        texts = [anchor + piece.text if behind else piece.text for piece, behind in zip(pieces, follow, strict=True)]
        for piece, behind, ids in zip(pieces, follow, self._encoder.encode(texts), strict=True):
            if not behind:
                yield ids
            elif ids[: len(mark)] == mark:
                yield ids[len(mark) :]
            else:
                yield self._encoder.encode([piece.text])[0]

    def _sample(self, pieces: Sequence[Piece], runs: Sequence[list[int]], example: Example) -> Sample:
        framed = not (isinstance(example.content, Chat) and self._conversations.templated)
        prefix = self._encoder.prefix if framed else []
        ids = [*prefix, *chain.from_iterable(runs)]
        end = self._end(pieces[-1], ids, framed=framed)
        ids_T = np.array(ids + end, np.int32)
        loss_T = np.zeros(len(ids_T), np.bool_)
        loss_T[1 : len(prefix)] = self._loss_on is LossOn.ALL
        at = len(prefix)
        for piece, run in zip(pieces, runs, strict=True):
            loss_T[at : at + self._answered(piece, run)] = piece.learned
            at += len(run)
        loss_T[at:] = True
        loss_T[:1] = False
        if self._vocabulary is not None:
            check_known(int(ids_T.max(initial=0)), self._vocabulary)
        return Sample(ids_T, loss_T)

    def _answered(self, piece: Piece, run: Sequence[int]) -> int:
        """Tokens of a piece up to its end."""
        ends = (at for at, token in enumerate(run, 1) if token in self._ends.ids)
        return next(ends, len(run)) if piece.turn else len(run)

    def _end(self, last: Piece, ids: Sequence[int], *, framed: bool) -> list[int]:
        """What ends the sample, where nothing does yet."""
        if not last.learned or last.text.rstrip().endswith(self._ends.texts or "\0"):
            return []
        if framed and self._encoder.suffix:
            return self._encoder.suffix
        return [] if self._ends.chosen is None or ids[-1:] == [self._ends.chosen] else [self._ends.chosen]

    def _dummy_anchor(self) -> tuple[str, list[int]]:
        """A text, and its ids, behind which the tokenizer puts no space of its own; empty where it never does."""
        bare, mark, both = self._encoder.encode(["a", _ANCHOR, _ANCHOR + "a"])
        return (_ANCHOR, mark) if both[: len(mark)] == mark and both[len(mark) :] != bare else ("", [])


def _eos(path: Path) -> list[int]:
    found = _read(path).get("eos_token_id")
    return [each for each in (found if isinstance(found, list) else [found]) if isinstance(each, int)]


def _vocabulary(folder: Path) -> int | None:
    """Rows of the embedding, where the configuration says it."""
    config = _read(folder / "config.json")
    inner = config.get("text_config")
    size = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else None)
    return size if isinstance(size, int) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
