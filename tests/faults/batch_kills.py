"""A batch whose processes are killed at random, against the undisturbed run of the same file.

    python -m tests.faults.batch_kills --lines 10000 --kills 50 --seed 1

runs the issue's own size on a yard of its own and prints what it did; `test_batches.py` does the same in small.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil
from sqlalchemy import text

from shared.errors import DatabaseUnavailable
from shared.ids import parse_prefixed
from tests.faults.conftest import quick_yard
from tests.faults.history import History
from tests.support.polling import wait_until
from tests.support.yards import RunningYard

ENGINE = "engine"
#: who is killed, and how often in comparison
VICTIMS = {"worker": 6, ENGINE: 6, "courier": 3, "relay": 2, "gateway": 3, "broker": 1, "cache": 1, "store": 1}
VICTIMS |= {"postgres": 1}
TOKENS = 4
#: The likeliest token of a line leads by so much (natural logarithm) at every step. In float32 a logit differs in its
#: last digits with the size of the engine's batch (1e-5), and a batch that was killed is never the same twice.
LEAD = 0.01
SPARE = 1.3  # of the candidates, so many for each line
CONSTANTS = {"lease_ttl_s": 4, "max_lost": 100, "max_failures": 20}

_RECORDED = text("""
SELECT count(*) AS n, count(DISTINCT i.line_no) AS lines FROM job_items i JOIN jobs j ON j.id = i.job_id
WHERE j.parent_id = :parent AND i.status <> 'pending'
""")
_FAMILY = text("SELECT id FROM jobs WHERE parent_id = :parent ORDER BY id")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Files:
    """What a batch wrote."""

    counts: dict[str, int]
    output: bytes
    errors: bytes


@dataclass
class Batches:
    """Batches over HTTP, for as long as it takes: the gateway may be away."""

    yard: RunningYard
    history: History

    def upload(self, content: bytes) -> str:
        with self.yard.client() as client:
            made = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("lines.jsonl", content)})
            return str(made.raise_for_status().json()["id"])

    def create(self, file_id: str) -> str:
        body = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h"}
        key = str(uuid.uuid4())
        made = self.yard.insist("POST", "/v1/batches", json=body, headers={"Idempotency-Key": key})
        return str(made.json()["id"])

    def finished(self, batch_id: str, *, timeout: float) -> dict[str, Any]:
        """The batch once it has ended."""

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = self.yard.insist("GET", f"/v1/batches/{batch_id}").json()
            return found if found["status"] in {"completed", "failed", "expired", "cancelled"} else None

        what = f"batch {batch_id} has ended\n{self.yard.logs(lines=10)}"
        return wait_until(ended, timeout=timeout, every=0.2, what=what)

    def files(self, batch: dict[str, Any]) -> Files:
        assert batch["status"] == "completed", batch
        output, errors = (self._content(batch[name]) for name in ("output_file_id", "error_file_id"))
        return Files(batch["request_counts"], output, errors)

    def run(self, file_id: str, *, timeout: float) -> Files:
        return self.files(self.finished(self.create(file_id), timeout=timeout))

    def recorded(self, batch_id: str) -> int:
        """Lines that have a result; 0 while the database is away. No line has two."""
        try:
            with self.history.database.transaction() as session:
                row = session.execute(_RECORDED, {"parent": parse_prefixed("batch_", batch_id)}).one()
        except DatabaseUnavailable:
            return 0
        assert row.n == row.lines, "a line of the file is in two jobs"
        return int(row.n)

    def check(self, batch_id: str) -> None:
        """What must hold of every job of the batch, whatever was killed."""
        parent = parse_prefixed("batch_", batch_id)
        self.history.database.close()  # connections that a killed PostgreSQL left behind
        with self.history.database.transaction() as session:
            children = session.execute(_FAMILY, {"parent": parent}).scalars().all()
        self.history.check([str(parent), *map(str, children)])

    def _content(self, file_id: str | None) -> bytes:
        return b"" if file_id is None else self.yard.insist("GET", f"/v1/files/{file_id}/content").content


@dataclass
class Killer:
    """Kills at random moments of a batch: after so many recorded lines and a moment more, one role each."""

    yard: RunningYard
    random: random.Random
    done: Counter[str] = field(default_factory=Counter)

    def plan(self, *, lines: int, kills: int) -> list[tuple[int, str]]:
        """(recorded lines, role). The first meets the reading of the file, the last the writing of the results."""
        moments = sorted(self.random.randrange(lines) for _ in range(kills - 2))
        roles = self.random.choices(list(VICTIMS), list(VICTIMS.values()), k=kills - 2)
        return [(0, "courier"), *zip(moments, roles, strict=True), (lines, "courier")]

    def kill(self, role: str) -> None:
        """SIGKILL, as soon as there is such a process."""

        def killed() -> bool:
            pids = [each.pid for each in engines(self.yard)] if role == ENGINE else self.yard.pids(role)[:1]
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return True
            return False

        wait_until(lambda: self.random.random() < 0.2, timeout=30, every=0.03)  # a moment more
        wait_until(killed, timeout=90, every=0.05, what=f"a process of {role}\n{self.yard.logs(lines=10)}")
        self.done[role] += 1


def engines(yard: RunningYard) -> list[psutil.Process]:
    """Engines of the yard's worker."""
    found = []
    with suppress(psutil.Error):
        for pid in yard.pids("worker"):
            children = psutil.Process(pid).children(recursive=True)
            found += [each for each in children if "workers.engine" in each.cmdline()]
    return found


def disturbed(batches: Batches, file_id: str, *, lines: int, kills: int, seed: int, say: Say) -> tuple[Files, Killer]:
    """Run a file while processes are killed, and check the jobs."""
    killer = Killer(batches.yard, random.Random(seed))
    batch_id = batches.create(file_id)
    for number, (moment, role) in enumerate(killer.plan(lines=lines, kills=kills), 1):
        what = f"{moment} lines\n{batches.yard.logs(lines=10)}"
        wait_until(lambda at=moment: batches.recorded(batch_id) >= at, timeout=300, every=0.05, what=what)  # type: ignore[misc]
        killer.kill(role)
        say(f"kill {number} of {kills}: {role}, after {moment} of {lines} lines")
    files = batches.files(batches.finished(batch_id, timeout=300))
    batches.check(batch_id)
    return files, killer


def clear(batches: Batches, count: int) -> list[str]:
    """Prompts whose greedy answers no rounding can change: yard-tiny is sure of every token."""
    candidates = [f"def name_{number}(self, value" for number in range(int(count * SPARE) + 20)]
    asked = {"max_tokens": TOKENS, "temperature": 0, "logprobs": 2}
    bodies = [asked | {"prompt": prompt} for prompt in candidates]
    done = batches.run(batches.upload(content_of(bodies)), timeout=600)
    found = [orjson.loads(row) for row in done.output.splitlines()]
    answers = [each["response"]["body"]["choices"][0]["logprobs"] for each in found]
    sure = [prompt for prompt, answer in zip(candidates, answers, strict=True) if _lead(answer) >= LEAD]
    assert len(sure) >= count, f"only {len(sure)} of {len(candidates)} prompts are clear"
    return sure[:count]


def _lead(logprobs: dict[str, Any]) -> float:
    """The least distance of the two likeliest tokens; 0 where one text stands for both."""
    tops = [sorted(each.values()) for each in logprobs["top_logprobs"]]
    return min((top[-1] - top[-2] if len(top) > 1 else 0.0 for top in tops), default=0.0)


def lines_of(prompts: list[str]) -> Iterator[dict[str, Any]]:
    """Bodies: most are greedy, some equal to the one before, some sampled without a seed, some bad."""
    for number, prompt in enumerate(prompts):
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
        if number % 10 == 3:
            body["prompt"] = prompts[number - 1]
        elif number % 100 == 7:
            body |= {"temperature": 1.0, "max_tokens": 1}
        elif number % 50 == 9:
            body["temperature"] = 3
        yield body


def content_of(bodies: list[dict[str, Any]]) -> bytes:
    """A batch's file. Nothing is taken from the response cache: a killed batch is to meet an engine at work."""
    rows = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "yard-tiny", "cache": {"mode": "off"}, **body},
        }
        for number, body in enumerate(bodies)
    ]
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def compare(plain: Files, killed: Files, *, lines: int) -> None:
    """The same files to the byte, and counts that add up."""
    for files in (plain, killed):
        assert files.counts["completed"] + files.counts["failed"] == files.counts["total"] == lines
    rows = killed.output.splitlines(), killed.errors.splitlines()
    ids = [orjson.loads(row)["custom_id"] for part in rows for row in part]
    assert sorted(ids) == sorted(f"line-{number}" for number in range(lines)), "one record a line"
    differ = [
        (one, two)
        for mine, theirs in ((plain.output, killed.output), (plain.errors, killed.errors))
        for one, two in zip(mine.splitlines(), theirs.splitlines(), strict=True)
        if one != two
    ]
    assert not differ, f"{len(differ)} lines differ, the first: {differ[0]}"
    assert (plain.output, plain.errors) == (killed.output, killed.errors)


def main() -> None:
    """Run once, and say how it went."""
    parser = argparse.ArgumentParser(description="kill processes during a batch, and compare")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    begun = time.monotonic()

    def say(told: str) -> None:
        sys.stdout.write(f"{time.monotonic() - begun:7.1f} s  {told}\n")
        sys.stdout.flush()

    with (
        tempfile.TemporaryDirectory(prefix="batch-kills-") as folder,
        quick_yard(Path(folder), **CONSTANTS) as (yard, history),
    ):
        batches = Batches(yard, history)
        prompts = clear(batches, asked.lines)
        say(f"{len(prompts)} clear prompts")
        file_id = batches.upload(content_of(list(lines_of(prompts))))
        plain = batches.run(file_id, timeout=900)
        say(f"undisturbed: {plain.counts}")
        killed, killer = disturbed(batches, file_id, lines=asked.lines, kills=asked.kills, seed=asked.seed, say=say)
        say(f"disturbed: {killed.counts}, killed: {dict(killer.done)}")
        compare(plain, killed, lines=asked.lines)
        say(f"both files are the same: {len(killed.output)} and {len(killed.errors)} bytes")


if __name__ == "__main__":
    main()
