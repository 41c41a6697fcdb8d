"""Jobs that arrive together are accepted together: one trip to a thread, one statement, one commit for up to 16.

A lone request is a group of one, so nobody waits for company; whoever comes while a group is in work is in the next
one. Measured: twice the jobs a second of one transaction each. Requests that take locks or carry much go alone
(`Accept.alone`), and so does each of a group in which one was refused.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from gateway import submission
from gateway.edge import Edge
from gateway.examining import concerns
from gateway.submission import Accepted, Once
from services.accounts.service import Caller
from shared import failpoints
from shared.contracts.jobs import JobRequest
from shared.errors import DatabaseUnavailable

GROUP = 16  #: submits of one transaction; so many that wait open another group beside the one in work
MOST = 4  #: groups in work at once: one that PostgreSQL keeps waiting must not hold up everybody
SMALL_BYTES = 64 * 1024

Outcome = Accepted | Exception


@dataclass(frozen=True)
class Accept:
    """One submit: whose, what, and the size of its body."""

    caller: Caller
    request: JobRequest
    once: Once
    bytes: int

    @property
    def alone(self) -> bool:
        """Whether it must not hold others up, or be held up with them."""
        waits = self.once != Once() or self.request.after_job_id is not None
        large = bool(self.request.on_success) or self.bytes > SMALL_BYTES
        return waits or large or concerns(self.request)


class Submitter:
    """The submits of one process. Used from the event loop; `_together` and `_alone` run in threads."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._waiting: deque[tuple[Accept, asyncio.Future[Accepted]]] = deque()
        self._in_work = 0

    async def submit(self, accept: Accept) -> Accepted:
        """Accept a job: committed when this returns.

        Raises:
            ModelyardError: as `services.jobs.service.submit`.
        """
        if accept.alone:
            return await self._edge.run(lambda: self._submit(accept))
        answer: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        self._waiting.append((accept, answer))
        if not self._in_work or (len(self._waiting) >= GROUP and self._in_work < MOST):
            self._in_work += 1
            self._dispatch()
        return await answer

    def _dispatch(self) -> None:
        group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
        accepts = [accept for accept, _ in group]
        done = asyncio.get_running_loop().run_in_executor(self._edge.threads, self._together, accepts)
        done.add_done_callback(lambda done: self._tell([answer for _, answer in group], done))

    def _tell(self, answers: Sequence[asyncio.Future[Accepted]], done: asyncio.Future[list[Outcome]]) -> None:
        for answer, outcome in zip(answers, done.result(), strict=True):
            if answer.done():  # its request was cancelled meanwhile
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        if self._waiting:
            self._dispatch()
        else:
            self._in_work -= 1

    def _together(self, accepts: Sequence[Accept]) -> list[Outcome]:
        if len(accepts) == 1:
            return [self._alone(accepts[0])]
        made: list[Outcome] = []
        try:
            with self._edge.database.transaction() as session:
                made = [*submission.accept_all(session, [(each.caller, each.request) for each in accepts])]
        except Exception:  # noqa: BLE001 - whose it is shows when each goes alone
            if not made:
                return [self._alone(each) for each in accepts]
            # All were written and the commit failed: it may have happened, so nothing is tried again here.
            return [DatabaseUnavailable() for _ in accepts]
        for _ in accepts:
            failpoints.hit("submit.after_commit")
        return made

    def _alone(self, accept: Accept) -> Outcome:
        try:
            return self._submit(accept)
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            return error

    def _submit(self, accept: Accept) -> Accepted:
        with self._edge.database.transaction() as session:
            accepted = submission.accept(session, accept.caller, accept.request, once=accept.once)
        failpoints.hit("submit.after_commit")
        return accepted
