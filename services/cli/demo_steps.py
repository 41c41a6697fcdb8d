"""What the steps of the demo share: their numbers, their times, and what they found out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from services.cli.output import say
from shared.clock import monotonic

MODEL = "yard-tiny"


class DemoFailed(Exception):
    """A step did not do what it should."""


@dataclass
class Demo:
    """What the demo has found out so far; becomes demo-report.json."""

    seconds: dict[str, float] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Announce a step, and time it."""
        say(f"\n{len(self.seconds) + 1} · {title}")
        begun = monotonic()
        yield
        self.seconds[name] = round(monotonic() - begun, 2)
        say(f"    {self.seconds[name]:.1f} s")
