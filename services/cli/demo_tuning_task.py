"""What the demo teaches: to answer a question with the area that it is about, in brackets, and nothing else."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

#: area → modules of the library. Their names are one token each: a model of three layers finds them.
AREAS: Final = {
    "network": ("socket", "http", "email"),
    "thread": ("threading", "queue"),
    "text": ("string", "re"),
    "time": ("datetime",),
}
FORMS: Final = ("How do I {}?", "How can one {}?", "I want to {}.", "Please {}.")
VERBS: Final = (
    "open", "close", "read", "write", "parse", "format", "load", "dump", "send", "find", "split", "join", "copy",
    "move", "remove", "make", "update", "clear", "start", "check",
)  # fmt: skip
NOUNS: Final = (
    "file", "path", "lock", "reader", "writer", "buffer", "stream", "token", "node", "field", "header", "request",
    "response", "server", "client", "handler", "event", "signal", "table", "row", "index", "key", "value", "name",
)  # fmt: skip
SEED: Final = 0
LEARNED = 512
HELD_OUT = 32


@dataclass(frozen=True)
class Example:
    """A question, and the answer in the form that is taught."""

    question: str
    answer: str

    @property
    def asked(self) -> list[dict[str, str]]:
        """The chat that asks it."""
        return [{"role": "user", "content": self.question}]

    @property
    def line(self) -> dict[str, Any]:
        """A line of training data."""
        return {"messages": [*self.asked, {"role": "assistant", "content": self.answer}]}


def examples() -> tuple[list[Example], list[Example]]:
    """Questions to learn from, and others to ask afterwards; the same ones at every call."""
    every = list(_every())
    chosen = random.Random(SEED).sample(every, LEARNED + HELD_OUT)
    return chosen[:LEARNED], chosen[LEARNED:]


def _every() -> Iterator[Example]:
    for (area, modules), verb, noun, form in product(AREAS.items(), VERBS, NOUNS, FORMS):
        for module in modules:
            yield Example(form.format(f"{verb} the {noun} with {module}"), f"[{area}]")
