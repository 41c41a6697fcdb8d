"""A tuning whose processes are killed at random, against the undisturbed run of the same spec.

    python -m tests.faults.tuning_kills --kills 20 --seed 1

runs the issue's own number on a yard of its own and prints what it did; `test_tuning.py` does the same in small. The
seed decides the moments and the victims; what a moment meets there is the machine's.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from shared.contracts.jobs import State
from tests.faults.conftest import quick_yard
from tests.faults.tunings import Look, Tunings, attempts, compare, forges
from tests.support.polling import wait_until

FORGE, WORKER, HOST, YARD = "forge", "worker", "worker and forge", "yard"
#: who is killed, and how often in comparison
VICTIMS = {FORGE: 5, WORKER: 4, HOST: 3, YARD: 2}
EARLY = 0.25  # of the kills do not wait for the run to train again
STEPS_A_KILL, EVERY, BATCH = 20, 8, 8
#: of a step that anybody has heard of, a kill comes so much later (s): figures are written every second
LATER = 1.0
STARTING = 8.0  # s after the kill before, at most: an early kill meets the next forge's start, or its first steps
AGAIN_S, END_S = 180.0, 600.0
CONSTANTS = {"lease_ttl_s": 10}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Moment:
    """When to kill, and whom."""

    step: int  #: not before the run has come so far
    early: bool  #: as soon as there is a forge, rather
    later_s: float
    victim: str


@dataclass
class Kill:
    """A kill, and what came of it."""

    victim: str
    attempt: int
    at: int | None  #: the step that the attempt had told of; None where it had not trained
    when: float = field(default_factory=time.monotonic)
    again_s: float | None = None  #: until figures of a later attempt came; None where that was killed before
    since: int | None = None  #: the step after which the run went on

    @property
    def twice(self) -> int:
        """Steps done again, of those that were told."""
        return max(0, (self.at or 0) - (self.since or 0)) if self.since is not None else 0


def plan(chance: random.Random, *, steps: int, kills: int) -> Iterator[Moment]:
    """The first kill meets the start, the last the storing of the result."""
    yield Moment(0, early=True, later_s=chance.uniform(0, STARTING), victim=FORGE)
    for step in sorted(chance.randrange(steps * 4 // 5) for _ in range(kills - 2)):
        early = chance.random() < EARLY
        later_s = chance.uniform(0, STARTING if early else LATER)
        (victim,) = chance.choices(list(VICTIMS), list(VICTIMS.values()))
        yield Moment(step, early=early, later_s=later_s, victim=victim)
    yield Moment(steps, early=False, later_s=0.0, victim=WORKER)


@dataclass
class Killer:
    """Kills what one tuning needs, and keeps an account of it."""

    tunings: Tunings
    job_id: str
    kills: list[Kill] = field(default_factory=list)
    _worker: int = 0  #: the last that was killed

    def strike(self, moment: Moment) -> Kill:
        """Wait for a moment, and kill."""
        begun = time.monotonic()
        if moment.early:
            wait_until(self._forges, timeout=AGAIN_S, every=0.05, what=f"a forge\n{self._logs()}")
        else:
            what = f"step {moment.step}\n{self._logs()}"
            wait_until(lambda: self._reached(moment.step), timeout=AGAIN_S, every=0.02, what=what)
            begun = time.monotonic()
        wait_until(lambda: time.monotonic() - begun >= moment.later_s, timeout=60)
        what = f"{moment.victim} to kill\n{self._logs()}"
        kill = wait_until(lambda: self._kill(moment.victim), timeout=AGAIN_S, every=0.02, what=what)
        self.kills.append(kill)
        if moment.victim == YARD:
            self.tunings.yard.up()
        return kill

    def look(self) -> Look | None:
        """How far the run is; a kill that it has got over is noted."""
        look = self.tunings.look(self.job_id)
        if look is None or look.first is None or not self.kills:
            return look
        if self.kills[-1].since is None and look.attempt > self.kills[-1].attempt:
            self.kills[-1].again_s = time.monotonic() - self.kills[-1].when
            for kill in self.kills:
                kill.since = look.first - 1 if kill.since is None else kill.since
        return look

    def _reached(self, step: int) -> bool:
        look = self.look()
        return look is not None and (look.reached >= step or State(look.state).terminal)

    def _living(self) -> int:
        """The worker's pid; 0 while there is none but the one that was killed."""
        pids = self.tunings.yard.pids("worker")
        return pids[0] if pids and pids[0] != self._worker and psutil.pid_exists(pids[0]) else 0

    def _forges(self) -> list[int]:
        return [each.pid for each in forges(self._living())] if self._living() else []

    def _kill(self, victim: str) -> Kill | None:
        """SIGKILL of all that a victim is, if it is there."""
        worker = self._living()
        pids = {
            FORGE: self._forges(),
            WORKER: [worker] if worker else [],
            HOST: [worker, *self._forges()] if self._forges() else [],
            YARD: self._everybody(),
        }[victim]
        look = self.look() if pids else None
        if look is None:
            return None
        assert not State(look.state).terminal, f"the job is {look.state} before kill {len(self.kills) + 1}"
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim != FORGE:
            self._worker = worker or self._worker
        claimed = not self.kills or look.attempt > self.kills[-1].attempt
        return Kill(victim, look.attempt, look.at if claimed else None)

    def _everybody(self) -> list[int]:
        """The yard's processes, the one first that would start the others again."""
        state = self.tunings.yard.state
        return [state.pid, *(pid for pids in state.pids.values() for pid in pids)]

    def _logs(self) -> str:
        return self.tunings.yard.logs(lines=15)


def disturbed(tunings: Tunings, moments: list[Moment], *, say: Say) -> tuple[dict[str, object], list[Kill]]:
    """Run a tuning while processes are killed: the finished job, and every kill."""
    killer = Killer(tunings, tunings.start())
    for number, moment in enumerate(moments, 1):
        kill = killer.strike(moment)
        where = "while it started" if kill.at is None else f"at step {kill.at}"
        say(f"kill {number} of {len(moments)}: {moment.victim}, {where} (attempt {kill.attempt})")
    what = f"the end\n{tunings.yard.logs(lines=15)}"
    wait_until(lambda: _ended(killer), timeout=END_S, every=0.05, what=what)
    job = tunings.history.finished(killer.job_id, timeout=END_S)
    say(
        f"{job['state']} {time.monotonic() - killer.kills[-1].when:.1f} s after the last kill, attempt {job['attempt']}"
    )
    return job, killer.kills


def _ended(killer: Killer) -> bool:
    look = killer.look()
    return look is not None and State(look.state).terminal


def table(kills: list[Kill]) -> str:
    """One line a kill. An attempt that was killed before it trained did not train again; the next one did."""
    rows = [("kill", "victim", "attempt", "at step", "trained again after", "on from step", "steps done twice")]
    for number, kill in enumerate(kills, 1):
        again = "-" if kill.again_s is None else f"{kill.again_s:.1f} s"
        at = "starting" if kill.at is None else str(kill.at)
        since = "-" if kill.since is None else str(kill.since)
        rows.append((str(number), kill.victim, str(kill.attempt), at, again, since, str(kill.twice)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> None:
    """Run once, and say how it went; any failure is an exit status."""
    parser = argparse.ArgumentParser(description="kill processes during a tuning, and compare")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if asked.kills < 2:
        parser.error("--kills: two at least, the first at the start and the last at the end")
    begun, steps = time.monotonic(), STEPS_A_KILL * asked.kills

    def say(told: str) -> None:
        sys.stdout.write(f"{time.monotonic() - begun:7.1f} s  {told}\n")
        sys.stdout.flush()

    with (
        tempfile.TemporaryDirectory(prefix="tuning-kills-") as folder,
        quick_yard(Path(folder), **CONSTANTS) as (yard, history),
    ):
        tunings = Tunings.of(yard, history, batch=BATCH, steps=steps, every=EVERY)
        plain = tunings.run(timeout=END_S)
        say(f"undisturbed: {len(plain.weights)} bytes of weights after {steps} steps")
        moments = list(plan(random.Random(asked.seed), steps=steps, kills=asked.kills))
        job, kills = disturbed(tunings, moments, say=say)
        say(f"lost in a row at the end: {job['lost_count']}, failures: {job['failure_count']}\n{table(kills)}")
        compare(plain, tunings.tuned(job), steps=steps)
        assert attempts(yard) == [], "a folder of an attempt is left"
        say(f"weights and the figures of {steps} steps are the same to the bit")


if __name__ == "__main__":
    main()
