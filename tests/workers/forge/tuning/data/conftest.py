"""Files of JSON lines, tokenizers of several families, and what a run would be given of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.contracts.forge import LogMessage, Message, ProgressMessage
from shared.contracts.forge_orders import Data
from shared.contracts.tuning_orders import TuneOrder
from workers.forge.telling import Tell
from workers.forge.tuning.samples import Row, TuningData, load

YARD_TINY = Path(__file__).parents[5] / "infra" / "models" / "yard-tiny"

Write = Callable[..., Data]
Load = Callable[..., TuningData]
Learned = Callable[..., list[str]]


class Told:
    """What a worker would have read on the pipe."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    @property
    def lines(self) -> list[str]:
        return [message.message for message in self.messages if isinstance(message, LogMessage)]

    @property
    def progress(self) -> list[tuple[int, int | None, str]]:
        found = (message for message in self.messages if isinstance(message, ProgressMessage))
        return [(message.done, message.total, message.unit) for message in found]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(YARD_TINY)


@pytest.fixture
def with_template(tokenizer: Any) -> Callable[[str], Any]:
    """yard-tiny's vocabulary with another chat template."""

    def _with_template(template: str) -> Any:
        other = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
        )
        other.chat_template = template
        return other

    return _with_template


@pytest.fixture(scope="session")
def llama_like() -> Any:
    """yard-tiny's vocabulary with a BOS before each text, and without a chat template."""
    inner = Tokenizer.from_file(str(YARD_TINY / "tokenizer.json"))
    inner.post_processor = TemplateProcessing(
        single="<|system|> $A", pair="<|system|> $A $B", special_tokens=[("<|system|>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|system|>", eos_token="<|end|>")


@pytest.fixture
def spaced() -> Any:
    """A SentencePiece-like tokenizer: every text begins with a space of its own, a line break is a token."""
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2, "\n": 3, "▁": 4, "▁red": 5, "▁blue": 6, "red": 7, "blue": 8, ":": 9}
    vocabulary |= {letter: 10 + at for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    inner = Tokenizer(models.Unigram([(piece, -float(len(piece) < 3)) for piece in vocabulary], unk_id=2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A file of lines: values, or bytes as they are."""

    def _write(lines: Sequence[Any], *, name: str = "data.jsonl") -> Data:
        path = tmp_path / name
        path.write_bytes(
            b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
        )
        return Data(path=path, name=name)

    return _write


@pytest.fixture
def loaded(tokenizer: Any, told: Told) -> Load:
    """Rows of files; options of training among the others of the order."""

    def _loaded(
        *data: Data, tokenizer: Any = tokenizer, folder: Path = YARD_TINY, context_length: int = 2048, **more: Any
    ) -> TuningData:
        fields = {key: more.pop(key) for key in list(more) if key in TuneOrder.model_fields}
        order = TuneOrder.model_validate(
            {
                "model": {"folder": folder, "name": "base"},
                "name": "tuned",
                "method": "lora",
                "lora": None,
                "training": {"learning_rate": 1e-4, **more},
                "checkpoints": {},
                "data": list(data),
                "context_length": context_length,
                **fields,
            }
        )
        return load(order, tokenizer, tell=Tell(told.messages.append))

    return _loaded


@pytest.fixture
def learned(tokenizer: Any, loaded: Load, write: Write) -> Learned:
    """Of each sample of some lines: its text, what is learned of it in brackets."""

    def _learned(*lines: Any, tokenizer: Any = tokenizer, **more: Any) -> list[str]:
        return [shown(row, tokenizer) for row in loaded(write(lines), tokenizer=tokenizer, **more).train]

    return _learned


def shown(row: Row, tokenizer: Any) -> str:
    """Runs of tokens decoded each for itself."""
    text, at = "", 0
    while at < len(row.ids_T):
        end = at
        while end < len(row.ids_T) and row.loss_T[end] == row.loss_T[at]:
            end += 1
        run = tokenizer.decode(row.ids_T[at:end].tolist())
        text += f"[{run}]" if row.loss_T[at] else run
        at = end
    return text


def chat(*said: str, system: str | None = None) -> dict[str, Any]:
    """Messages of user and assistant in turn."""
    roles = ("user", "assistant")
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    return {"messages": messages + [{"role": roles[at % 2], "content": each} for at, each in enumerate(said)]}
