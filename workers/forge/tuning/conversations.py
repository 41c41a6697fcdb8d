"""Chats as a model's template shows them, in pieces that are learned and pieces that are not.

A chat is rendered whole, and up to each answer: without it, as an engine asks for it, and with it. Where those texts
are beginnings of the whole one, they mark the answer in it. A template that shows an answer otherwise while it is the
last one (Qwen3 shows thoughts only there) makes one sample of each answer instead, with the chat before it as an engine
would show it. Where it even asks for an answer otherwise than it shows one (with thoughts that are closed already), the
sample is what an engine would ask, and behind it what the template shows of the answer; the job's log says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from shared.contracts.tuning import LossOn
from workers.forge.data.templates import ChatRefused, Renderer, Scene
from workers.forge.data.tokenizing import Log
from workers.forge.refusing import Refused
from workers.forge.tuning.examples import ASSISTANT, Chat, Example, Message

_PROBE = Message(ASSISTANT, "\N{WHITE SQUARE}")  # an answer that begins as nothing in a template does


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a sample's text that is tokenized apart from the others."""

    text: str
    learned: bool
    follows: bool = True  #: not the first of its sample
    turn: bool = False  #: an answer as a template shows it: what comes behind its end is not learned


@dataclass(frozen=True, slots=True)
class _Answer:
    """Texts of a chat up to an answer: as an engine asks for it, and with it."""

    index: int  #: of its message
    asked: str
    shown: str


class Conversations:
    """Shows chats by the model's template; without one as plain text, a line `role: content` for each message."""

    def __init__(self, tokenizer: Any, *, loss_on: LossOn, tell: Log) -> None:
        self._renderer = Renderer(tokenizer)
        self.templated = self._renderer.template is not None
        self.problems: dict[str, str] = {}  #: why the template refuses a chat, by the example's place
        self._loss_on = loss_on
        self._tell = tell
        self._told: set[str] = set()

    def pieces(self, examples: Sequence[tuple[Example, Chat]]) -> Iterator[list[list[Piece]]]:
        """The samples of every chat, in pieces; none when the template refuses it.

        Raises:
            Refused: `unsupported_model`: the template takes too long, knows no tools, or hides where answers are.
        """
        for example, chat in examples:
            self._check_tools(chat, example)
        if not self.templated:
            self._say_once("the model has no chat template: chats are plain text, `role: content` line by line")
            yield from ([self._plain(chat)] for _, chat in examples)
            return
        scenes = [list(self._scenes(chat)) for _, chat in examples]
        texts = iter(self._renderer.render_all([scene for each in scenes for scene in each]))
        for (example, chat), each in zip(examples, scenes, strict=True):
            found = [next(texts) for _ in each]
            refused = next((text for text in found if isinstance(text, ChatRefused)), None)
            if refused is not None:
                self.problems[example.place] = str(refused)
                yield []
            else:
                yield [_tidy(sample) for sample in self._shown(example, chat, [str(text) for text in found])]

    def _marked(self, chat: Chat) -> list[int]:
        """Messages whose place in the text has to be known: what is learned, or, of all, what is not."""
        if self._loss_on is not LossOn.ALL:
            return chat.answers(self._loss_on)
        return [index for index, message in enumerate(chat.messages) if not message.weight]

    def _scenes(self, chat: Chat) -> Iterator[Scene]:
        yield self._scene(chat, chat.messages, answered=True)
        for index in self._marked(chat):
            yield self._scene(chat, chat.messages[:index], answered=False)
            if index + 1 < len(chat.messages):
                yield self._scene(chat, chat.messages[: index + 1], answered=True)

    def _scene(self, chat: Chat, messages: Sequence[Message], *, answered: bool) -> Scene:
        return Scene([self._turn(message, chat) for message in messages], answered, chat.tools or None)

    def _turn(self, message: Message, chat: Chat) -> dict[str, Any]:
        unknown = message.role == "developer" and "developer" not in self._template(chat)  # as the engines do
        role = "system" if unknown else message.role
        return {"role": role, "content": message.content, **(message.more or {})}

    def _template(self, chat: Chat) -> str:
        return (self._renderer.template_with_tools if chat.tools else self._renderer.template) or ""

    def _shown(self, example: Example, chat: Chat, texts: Sequence[str]) -> list[list[Piece]]:
        rest = iter(texts)
        whole = next(rest)
        self._check_said(chat, whole, example)
        end = len(chat.messages) - 1
        answers = [_Answer(each, next(rest), next(rest) if each < end else whole) for each in self._marked(chat)]
        every = self._loss_on is LossOn.ALL
        cuts = [0, *(len(text) for each in answers for text in (each.asked, each.shown)), len(whole)]
        if all(map(whole.startswith, texts)) and cuts == sorted(cuts):
            return [_cut(whole, cuts, inside=not every)]
        if every:
            title = "The model's chat template does not show where an answer of weight 0 ends"
            raise Refused("unsupported_model", title, example.place)
        if len(answers) > 1:
            self._say_once("the chat template shows an answer otherwise once another follows: each one is a sample")
        return [self._alone(each, chat, example) for each in answers]

    def _alone(self, answer: _Answer, chat: Chat, example: Example) -> list[Piece]:
        common = answer.asked
        if not answer.shown.startswith(common):
            probe = self._scene(chat, (*chat.messages[: answer.index], _PROBE), answered=True)
            (shown,) = self._renderer.render_all([probe])
            common = _common(answer.asked, str(shown))
            if isinstance(shown, ChatRefused) or not common or not answer.shown.startswith(common):
                title = "The model's chat template does not show where an answer begins"
                raise Refused("unsupported_model", title, example.place)
            self._say_once("the chat template asks for an answer otherwise than it shows one: it is learned as asked")
        return [
            Piece(answer.asked, learned=False),
            Piece(answer.shown[len(common) :], learned=True, turn=True),
        ]

    def _plain(self, chat: Chat) -> list[Piece]:
        marked = self._marked(chat)
        every = self._loss_on is LossOn.ALL
        pieces: list[Piece] = []
        last = len(chat.messages) - 1
        for index, message in enumerate(chat.messages):
            said = f" {message.content}" + ("\n" if index < last else "")
            learned = (index in marked) is not every
            pieces += [Piece(f"{message.role}:", learned=every), Piece(said, learned=learned)]
        return _tidy(pieces)

    def _check_tools(self, chat: Chat, example: Example) -> None:
        needed = {"tools": bool(chat.tools)} | {
            word: any(message.role == word or word in (message.more or {}) for message in chat.messages)
            for word in ("tool_calls", "tool")
        }
        template = self._template(chat)
        for word in (word for word, asked in needed.items() if asked and word not in template):
            title = "The model's chat template knows no tools"
            raise Refused("unsupported_model", title, f"{example.place}: the template does not mention {word}")

    @staticmethod
    def _check_said(chat: Chat, whole: str, example: Example) -> None:
        """Some templates, of models that see, show nothing of a content that is one string."""
        answers = (each.content.rsplit(None, 1) for each in chat.messages if each.role == ASSISTANT)
        if not all(words[-1] in whole for words in answers if words):
            title = "The model's chat template does not show what an answer says"
            raise Refused("unsupported_model", title, example.place)

    def _say_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._tell.log(message)


def _cut(text: str, cuts: Sequence[int], *, inside: bool) -> list[Piece]:
    """Every second part is an answer; `inside` is whether that is what is learned."""
    parts = [(text[start:end], bool(number % 2)) for number, (start, end) in enumerate(pairwise(cuts))]
    return [Piece(part, learned=answer is inside, turn=answer and inside) for part, answer in parts]


def _common(one: str, other: str) -> str:
    """What both begin with."""
    length = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _tidy(pieces: Sequence[Piece]) -> list[Piece]:
    """Without empty pieces; neighbours of one kind are one, and the first is marked as such."""
    tidy: list[Piece] = []
    for piece in (piece for piece in pieces if piece.text):
        if tidy and (tidy[-1].learned, tidy[-1].turn) == (piece.learned, piece.turn):
            tidy[-1] = Piece(tidy[-1].text + piece.text, piece.learned, tidy[-1].follows, piece.turn)
        else:
            tidy.append(Piece(piece.text, piece.learned, bool(tidy), piece.turn))
    return tidy
