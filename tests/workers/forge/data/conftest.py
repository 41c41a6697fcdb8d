"""Files of JSON lines, a tokenizer, and what was told."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from shared.contracts.compression import Sampling
from shared.contracts.forge_orders import Data, SamplingOrder
from workers.forge.data.samples import Samples, take

YARD_TINY = Path(__file__).parents[4] / "infra" / "models" / "yard-tiny"

Write = Callable[..., Data]
Take = Callable[..., Samples]


@dataclass
class Told:
    """What a forge's log would hold."""

    lines: list[str] = field(default_factory=list)

    def log(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(YARD_TINY)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A file of lines: values, or bytes as they are."""

    def _write(lines: Sequence[Any], *, name: str = "data.jsonl", weight: float = 1.0) -> Data:
        path = tmp_path / name
        path.write_bytes(
            b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
        )
        return Data(path=path, name=name, weight=weight)

    return _write


@pytest.fixture
def taken(tokenizer: Any, told: Told) -> Take:
    """Samples of files; strategy domain where there is a reference."""

    def _taken(*data: Data, reference: Sequence[Data] = (), tokenizer: Any = tokenizer, **sampling: Any) -> Samples:
        given: dict[str, Any] = {"samples": 8, "sequence_length": 32} | sampling
        if reference:
            given |= {"strategy": "domain", "reference": [{"type": "library"}]}
        order = SamplingOrder(data=list(data), reference=list(reference), sampling=Sampling.model_validate(given))
        return take(order, tokenizer, tell=told)

    return _taken
