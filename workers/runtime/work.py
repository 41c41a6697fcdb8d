"""One claimed job in the runner's hands, and how its operation tells what became of it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import lifecycle
from services.jobs.types import Beat, Claim, Ending, Outcome
from services.usage import service as usage
from shared.clock import monotonic
from shared.contracts.jobs import JobError, Usage
from shared.errors import ModelyardError
from shared.queues import split_queue


class Stop(StrEnum):
    """Why running work is stopped before its end."""

    CANCEL = "cancel"  #: somebody asked for it
    HOLD = "hold"  #: the job was paused
    DRAIN = "drain"  #: the worker is going
    DEADLINE = "deadline"  #: the job's deadline passed
    RUNTIME = "runtime"  #: the attempt ran longer than `max_runtime_s`
    FENCED = "fenced"  #: another attempt owns the job: nothing more may be written


ENDS = {
    Stop.CANCEL: (Outcome.CANCELLED, None),
    Stop.HOLD: (Outcome.RELEASED, None),
    Stop.DRAIN: (Outcome.RELEASED, None),
    Stop.DEADLINE: (Outcome.EXPIRED, lifecycle.DEADLINE),
    Stop.RUNTIME: (
        Outcome.FAILED,
        JobError(code="max_runtime_exceeded", title="The attempt ran longer than max_runtime_s", retryable=True),
    ),
}


class JobFailed(Exception):
    """The work went wrong; `permanent` when another attempt would meet the same end, `lost` by no fault of the job's.

    What ends for good may leave rows all the same: `write` writes them in the transaction that ends the job.
    """

    def __init__(
        self,
        error: JobError,
        *,
        permanent: bool = False,
        lost: bool = False,
        write: Callable[[Session], None] | None = None,
    ) -> None:
        assert permanent or write is None, "another attempt would write its own rows"
        self.error = error
        self.permanent = permanent
        self.lost = lost
        self.write = write
        super().__init__(error.title)

    @classmethod
    def of(cls, error: ModelyardError) -> "JobFailed":
        """The same in a job's words; for good, unless another try may help."""
        told = JobError(code=error.code, title=error.message, retryable=error.retryable)
        return cls(told, permanent=not error.retryable)


@dataclass(frozen=True)
class Finish:
    """The end of an attempt, its last progress, and the artifact rows that its transaction writes under the fence.

    `undo` takes back what was prepared on this host for those rows; it is called when they are not written after all.
    """

    tenant_id: UUID
    ending: Ending
    write: Callable[[Session], None] | None = None
    beat: Beat | None = None
    undo: Callable[[], Awaitable[None]] | None = None


class Work:
    """A claim that runs. `halt` is the only way to stop it early."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.pool = split_queue(claim.queue)[1]
        self.stop: Stop | None = None
        self.finishing = False  #: the outcome is known; only its commit is missing
        self.task: asyncio.Task[None] | None = None
        self.gpu_seconds = 0.0
        self.moved = False  #: progress that no event has told yet
        self.told_at = monotonic()
        self._progress: tuple[int, int | None, str] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.started = monotonic()

    @property
    def id(self) -> UUID:
        return self.claim.job_id

    def progress(self, done: int, total: int | None, unit: str) -> None:
        """Note how far the work is. Recorded lines need no note: the database counts them; set `moved`."""
        self._progress, self.moved = (done, total, unit), True

    def beat(self) -> Beat:
        """The sign of life of this attempt."""
        done, total, unit = self._progress or (None, None, None)
        return Beat(self.id, self.claim.attempt, done=done, total=total, unit=unit)

    def halt(self, reason: Stop) -> None:
        """Stop the work, unless its outcome is known already. Being fenced outranks every other reason."""
        if self.finishing or (self.stop is not None and reason is not Stop.FENCED):
            return
        first, self.stop = self.stop is None, reason
        if first and self.task is not None:
            self.task.cancel(reason.value)

    def watch_time(self) -> None:
        """Arm the deadline and the longest run time, whichever comes first, on the monotonic clock."""
        left, longest = self.claim.seconds_left, self.claim.max_runtime_s
        if left is not None and (longest is None or left <= longest):
            self._timer = asyncio.get_running_loop().call_later(max(0.0, left), self.halt, Stop.DEADLINE)
        elif longest is not None:
            self._timer = asyncio.get_running_loop().call_later(longest, self.halt, Stop.RUNTIME)

    def unwatch_time(self) -> None:
        """Disarm."""
        if self._timer is not None:
            self._timer.cancel()

    def succeeded(
        self, write: Callable[[Session], None] | None = None, *, undo: Callable[[], Awaitable[None]] | None = None
    ) -> Finish:
        """The end of work that is done; `write` adds its artifacts in the same transaction. `undo`: see `Finish`."""
        return replace(self._finish(Outcome.SUCCEEDED, write=write), undo=undo)

    def stopped(self, write: Callable[[Session], None] | None = None) -> Finish:
        """The end of work that was halted; `write` keeps what there is of its results."""
        assert self.stop is not None
        outcome, error = ENDS[self.stop]
        return self._finish(outcome, error=error, write=write)

    def failed(self, failure: JobFailed) -> Finish:
        """The end of work that went wrong."""
        outcome = Outcome.LOST if failure.lost else Outcome.FAILED
        return self._finish(outcome, error=failure.error, permanent=failure.permanent, write=failure.write)

    def released(self, write: Callable[[Session], None]) -> Finish:
        """The end of an attempt that another one goes on from at once, with what `write` has changed."""
        return self._finish(Outcome.RELEASED, write=write)

    def _finish(
        self,
        outcome: Outcome,
        *,
        error: JobError | None = None,
        permanent: bool = False,
        write: Callable[[Session], None] | None = None,
    ) -> Finish:
        spent = usage.of_attempt(self.claim.gpu_class, gpu_seconds=self.gpu_seconds) if self.gpu_seconds else Usage()
        told = error.model_copy(update={"attempt": self.claim.attempt}) if error else None
        ending = Ending(self.id, self.claim.attempt, outcome, error=told, permanent=permanent, usage=spent)
        return Finish(self.claim.tenant_id, ending, write, self.beat() if self._progress else None)
