"""A tiny base, examples for it, and runs of the trainer in this process."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, cast

import torch
from safetensors.torch import load_file

from shared.contracts.forge import (
    EXIT_STOPPED,
    CheckpointMessage,
    ForgeSpec,
    LogMessage,
    Message,
    MetricMessage,
    Resume,
)
from shared.contracts.forge_orders import Data, Subject
from shared.contracts.tuning_orders import TuneOrder, TuneResult
from workers.forge.pipe import Pipe
from workers.forge.tuning.job import tune

THREADS = 1
_WORDS = ("path", "join", "split", "lines", "file", "open", "close", "string", "number", "list")


def chats(path: Path, count: int = 30) -> Data:
    """Questions of different lengths with short answers."""
    lines = []
    for row in range(count):
        question = " ".join(_WORDS[(row * 7 + column) % len(_WORDS)] for column in range(1 + row % 9))
        answer = f"def {_WORDS[row % len(_WORDS)]}_{row}"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n")
    return Data(path=path, name="chats")


def order(base: Path, data: Data, method: str = "lora", **options: Any) -> TuneOrder:
    """An order; options of `training` and `lora` are added to what stands here."""
    training = {"learning_rate": 5e-3, "steps": 6, "batch_size": 8, "micro_batch_size": 4} | options.pop("training", {})
    if "epochs" in training:
        del training["steps"]
    lora = {"rank": 4, "alpha": 8.0} | options.pop("lora", {})
    return TuneOrder.model_validate(
        {
            "model": Subject(folder=base, name="tiny@1"),
            "name": "tuned",
            "method": method,
            "lora": None if method == "full" else lora,
            "training": training,
            "checkpoints": {"every_steps": 100},
            "data": [data],
            "context_length": 128,
            **options,
        }
    )


class Heard:
    """The worker's end of a pipe: keeps what it is told, and may answer with the wish to stop."""

    def __init__(self, answer: Callable[[Message, "Heard"], object] | None = None) -> None:
        self.stopping, self.heeding = threading.Event(), threading.Event()
        self.messages: list[Message] = []
        self._answer = answer

    def send(self, message: Message) -> None:
        self.messages.append(message)
        if self._answer is not None:
            self._answer(message, self)

    def stop(self) -> None:
        raise SystemExit(EXIT_STOPPED)


@dataclass
class Tuned:
    """What came of a run."""

    out: Path
    heard: Heard = field(default_factory=Heard)
    made: TuneResult | None = None

    @property
    def result(self) -> TuneResult:
        assert self.made is not None
        return self.made

    @property
    def checkpoints(self) -> dict[int, Path]:
        told = [message for message in self.heard.messages if isinstance(message, CheckpointMessage)]
        return {message.step: self.out / message.folder for message in told}

    @property
    def logged(self) -> list[str]:
        return [message.message for message in self.heard.messages if isinstance(message, LogMessage)]

    @property
    def losses(self) -> dict[int, float]:
        return self.figures("loss")

    def figures(self, name: str) -> dict[int, float]:
        told = [message for message in self.heard.messages if isinstance(message, MetricMessage)]
        return {message.step: message.values[name] for message in told if name in message.values}

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return weights(self.out / "model")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder."""
    return {name: each for path in sorted(folder.glob("*.safetensors")) for name, each in load_file(path).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all bits are."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(
    given: TuneOrder,
    out: Path,
    *,
    resume: Path | None = None,
    threads: int = THREADS,
    answer: Callable[[Message, Heard], object] | None = None,
) -> Tuned:
    """Tune in this process; a run that is stopped has no result."""
    out.mkdir(parents=True)
    tuned = Tuned(out, Heard(answer))
    spec = forge_spec(given, out, resume=resume, threads=threads)
    try:
        tuned.made = tune(given, spec, pipe=cast("Pipe", tuned.heard), started=monotonic())
    except SystemExit as end:
        if end.code != EXIT_STOPPED:
            raise
    return tuned


def forge_spec(
    given: TuneOrder, out: Path, *, resume: Path | None = None, threads: int = THREADS, parent_pid: int = 1
) -> ForgeSpec:
    """What a forge is started with."""
    step = int(resume.name.split("-")[1]) if resume else 0
    return ForgeSpec(
        spec=given.model_dump(mode="json"),
        inputs=out,
        out=out,
        fingerprint="",
        parent_pid=parent_pid,
        threads=threads,
        resume=Resume(step=step, folder=resume) if resume else None,
    )
