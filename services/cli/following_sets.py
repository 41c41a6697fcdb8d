"""Waiting for a batch or a document set with its counts in sight: a bar on a terminal, lines elsewhere."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from services.cli import job_view
from services.cli.client import CallError, Client, Unreachable
from services.cli.following import PATIENCE_S
from services.cli.job_view import LONGEST, clip
from services.cli.output import ExitCode, note
from services.cli.waiting import LOOK_S, Late, Standing, in_sight
from shared.clock import monotonic

FIRST_LOOK_S = 0.2  # a small set has ended before the first whole second; looks become rarer up to `LOOK_S`

#: how a set ended → exit code
ENDS = {
    "completed": ExitCode.OK,
    "failed": ExitCode.FAILED,
    "cancelled": ExitCode.CANCELLED,
    "expired": ExitCode.EXPIRED,
}


@dataclass(frozen=True)
class Noun:
    """What is waited for: where it is, what it counts, and which command waits for it again."""

    name: str
    path: str
    unit: str
    counts: str  #: field of the resource that holds its counts
    again: str
    notes: tuple[str, ...]  #: counts that are told when they are not 0

    def where(self, id_: str) -> str:
        """The path of one of them."""
        return f"{self.path}/{id_}"


BATCH = Noun("batch", "/v1/batches", "lines", "request_counts", "modelyard batches wait", ("failed",))
DOCUMENT_SET = Noun(
    "document set", "/v1/document_sets", "documents", "counts", "modelyard documents wait", ("flagged", "failed")
)


def until_end(client: Client, noun: Noun, found: dict[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
    """The batch or set `found` once it has ended. Ctrl-C says how to go on; the work goes on without us.

    Raises:
        Late: `timeout_s` passed first.
        Refused, Unreachable: as the gateway answers; it may be away for `PATIENCE_S`.
    """
    deadline = None if timeout_s is None else monotonic() + timeout_s
    pause, answered = FIRST_LOOK_S, monotonic()
    try:
        with in_sight(partial(_standing, noun)) as show:
            show(found)
            while found["status"] not in ENDS:
                if deadline is not None and monotonic() >= deadline:
                    raise Late(f"The {noun.name} has not ended after {timeout_s:g} s: it is {found['status']}.")
                time.sleep(pause)
                pause = min(pause * 1.5, LOOK_S)
                try:
                    found, answered = client.get(noun.where(found["id"])), monotonic()
                except Unreachable:
                    if monotonic() - answered > PATIENCE_S:
                        raise
                show(found)
    except KeyboardInterrupt:
        note(f"\nThe {noun.name} goes on without you: {noun.again} {found['id']}")
        raise
    return found


def verdict(noun: Noun, found: Mapping[str, Any], *, allow_failures: bool = False) -> ExitCode:
    """Say on stderr how a batch or a set ended, and return its exit code."""
    because = cause_of_end(found)
    note(clip(f"{noun.name} {found['id']} {summary(noun, found)}{f': {because}' if because else ''}", width=LONGEST))
    code = ENDS[found["status"]]
    failed = found[noun.counts]["failed"]
    return ExitCode.INCOMPLETE if code is ExitCode.OK and failed and not allow_failures else code


def summary(noun: Noun, found: Mapping[str, Any]) -> str:
    """`in_progress 12/40 documents, 2 flagged, 1 failed`."""
    counts = found[noun.counts] or {"total": 0, "completed": 0, "failed": 0}
    done = counts["completed"] + counts["failed"]
    numbers = f" {done}/{counts['total']} {noun.unit}" if counts["total"] else ""
    return f"{found['status']}{numbers}{_notes(noun, counts)}"


def cause_of_end(found: Mapping[str, Any]) -> str:
    """Why it failed, in one line: a job's error, or the first problem of a batch's file."""
    if found.get("error"):
        return job_view.cause_of_end(found)
    problems = (found.get("errors") or {}).get("data") or []
    if not problems:
        return ""
    first, more = problems[0], len(problems) - 1
    where = f"line {first['line']}: " if first.get("line") else ""
    return f"{where}{first['message']} ({first['code']}){f'; and {more} more' if more else ''}"


def ended_early(noun: Noun, id_: str) -> CallError:
    """The error of a command that needs the end, for something that has not ended."""
    return _NotEnded(f"The {noun.name} {id_} has not ended yet; {noun.again} {id_} waits for it.")


class _NotEnded(CallError):
    """It is still going on."""

    code = "not_finished"
    exit_code = ExitCode.REFUSED


def _notes(noun: Noun, counts: Mapping[str, int]) -> str:
    return "".join(f", {counts[name]} {name}" for name in noun.notes if counts.get(name))


def _standing(noun: Noun, found: Mapping[str, Any]) -> Standing:
    counts = found[noun.counts] or {"total": 0, "completed": 0, "failed": 0}
    return Standing(
        state=found["status"],
        title=found["status"],
        done=counts["completed"] + counts["failed"],
        total=counts["total"] or None,
        unit=f"{noun.unit}{_notes(noun, counts)}",
        line=summary(noun, found),
    )
