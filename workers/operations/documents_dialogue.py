"""What one document's parts are asked, with one repair each, and how many tokens it took."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from services.documents import prompts, summaries
from services.documents.evidence import Source
from services.documents.summaries import Summary
from services.documents.tasks import Part, Reading, Task, understand
from shared.contracts.documents import DocumentUsage, Flag
from shared.contracts.jobs import JobError
from workers.operations.documents_asking import Desk, Said
from workers.runtime.host import Host

NO_PART: Final = Part(number=0, pieces=())  #: what summaries of summaries are about

T = TypeVar("T")


@dataclass
class Dialogue:
    """The requests for one document."""

    host: Host
    desk: Desk
    task: Task
    source: Source
    repaired: int = 0
    usage: DocumentUsage = field(default_factory=DocumentUsage)
    refused: list[JobError] = field(default_factory=list)
    flags: set[Flag] = field(default_factory=set)  #: of the document as a whole

    async def read(self, parts: Sequence[Part]) -> list[tuple[Part, Reading]]:
        """What the answers for parts say; those that the engine refused are left out, and told by a flag."""
        found = await together(self._part(part) for part in parts)
        return [(part, reading) for part, reading in zip(parts, found, strict=True) if reading is not None]

    async def combine(
        self, task: Summary, readings: Sequence[Reading], *, fits: Callable[[str], bool]
    ) -> list[tuple[Part, Reading]]:
        """One summary of all, made in a tree; `fits` says whether what stands in it is not too long for one request."""
        level = [reading for reading in readings if reading.values]
        self.flags.update(flag for reading in readings for flag in reading.flags)
        while len(level) > 1:
            grouped = await self.host.blocking(
                partial(summaries.groups, level, fits=lambda some: fits(task.combine(some)))
            )
            level = await together(self._combined(task, group) for group in grouped)
        return [(NO_PART, reading) for reading in level]

    async def _combined(self, task: Summary, group: Sequence[Reading]) -> Reading:
        """One summary of several; their sentences one after the other where there is no answer."""
        if len(group) == 1:
            return group[0]
        async with self.desk.places:
            reading = await self._answered(task.combine(group), NO_PART)
        if reading is not None:
            self.flags.update(reading.flags)
            if reading.values:
                return reading
        return summaries.joined(group)

    async def _part(self, part: Part) -> Reading | None:
        async with self.desk.places:
            return await self._answered(self.task.prompt(part), part)

    async def _answered(self, prompt: str, part: Part) -> Reading | None:
        """The answer, asked for again when there is something wrong with it; the better of the two."""
        turns = [{"role": "user", "content": prompt}]
        said = await self._say(turns)
        if said.refused is not None:
            self.refused.append(said.refused)
            self.flags.add(Flag.REFUSED)
            return None
        first = await self._understood(said, part)
        if not first.problems:
            return first
        told = prompts.repair(first.problems, json_form=self.task.schema is not None)
        turns += [{"role": "assistant", "content": said.text}, {"role": "user", "content": told}]
        self.repaired += 1
        again = await self._say(turns)
        if again.refused is not None:
            return first
        second = await self._understood(again, part)
        return second if second.better_than(first) else first

    async def _say(self, turns: Sequence[dict[str, str]]) -> Said:
        said = await self.desk.ask(turns, schema=self.task.schema)
        self.usage = DocumentUsage(
            prompt_tokens=self.usage.prompt_tokens + said.prompt_tokens,
            completion_tokens=self.usage.completion_tokens + said.completion_tokens,
        )
        return said

    async def _understood(self, said: Said, part: Part) -> Reading:
        reading = partial(understand, self.task, said.text, cut_off=said.cut_off, part=part, source=self.source)
        return await self.host.blocking(reading)


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them return, in their order. The first that fails ends the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
