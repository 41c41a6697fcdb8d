"""Batches: the lines of a file through the whole platform, against the same lines sent straight to the engine.

The straight side sends them in the order of the file, on connections that stay open, as many in flight as the platform
lets in. Both sides get lines of one form (lengths, repeats, order) in words of their own, so that neither finds the
other's prefixes or answers.
"""

import keyword
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import psutil

from bench.calls import engine_of
from bench.report import Report, Row
from bench.streams import Target, run
from bench.yard import Yard
from shared.ids import parse_prefixed

ROUNDS = 2  # platform, straight, straight, platform
MODEL = "yard-tiny"
AT_ONCE = 64  # what an engine holds of jobs by default
CHAT = "/v1/chat/completions"
#: nearly every one is one token of yard-tiny, with the space before it
WORDS = keyword.kwlist


@dataclass(frozen=True)
class Form:
    """What is alike among the lines of a batch."""

    name: str
    repeats: float  #: share of the lines that are another line again
    prefixes: int  #: system prompts that the lines share; 0: no two lines begin alike
    aim: float


FORMS = (
    Form("30% repeats, 20 shared prefixes", repeats=0.3, prefixes=20, aim=1.2),
    Form("no repeats, no shared prefix", repeats=0.0, prefixes=0, aim=0.97),
)


@dataclass(frozen=True)
class Done:
    """One side's way through the lines."""

    seconds: float
    prompt_tokens: int
    tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second, of every line: a line that was answered with its like counts in full."""
        return self.tokens / self.seconds


def measure(yard: Yard, report: Report, *, lines: int, rounds: int = ROUNDS) -> None:
    """For each form: platform, straight, straight, platform; the median of the rounds' ratios."""
    through(yard, chats(8, FORMS[0], salt=0), model=MODEL, path=CHAT)
    engine = engine_of(yard)
    for number, form in enumerate(FORMS):
        sides: tuple[Side, Side] = (
            lambda bodies: through(yard, bodies, model=MODEL, path=CHAT),
            lambda bodies: straight(engine, bodies, at_once=AT_ONCE, path=CHAT),
        )
        salted = [
            [chats(lines, form, salt=1000 * (number + 1) + 2 * turn + side) for side in range(2)]
            for turn in range(rounds)
        ]
        side_by_side(report, "batches", sides, salted, what=f"{lines:,} chats, {form.name}", aim=form.aim)


Side = Callable[[Sequence[dict[str, Any]]], Done]


def side_by_side(
    report: Report,
    section: str,
    sides: tuple[Side, Side],
    rounds: Sequence[Sequence[Sequence[dict[str, Any]]]],
    *,
    what: str,
    aim: float,
) -> None:
    """The platform and the engine's socket, in turn, each with its lines of a round; every second round backwards."""
    ratios = []
    for number, lines in enumerate(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        found = {side: sides[side](lines[side]) for side in order}
        assert found[0].tokens == found[1].tokens, f"the two sides did not generate the same: {found}"
        for side, name in enumerate(("through the platform", "engine's socket, order of the file")):
            note = (
                f"{found[side].seconds:.1f} s, {found[side].prompt_tokens:,} + {found[side].tokens:,} tokens, {load()}"
            )
            report.add(Row(section, f"{what}: {name}", found[side].tokens_per_s, "tokens/s", note=note))
        ratios.append(found[0].tokens_per_s / found[1].tokens_per_s)
    ratio = statistics.median(ratios)
    note = "rounds " + ", ".join(f"{each:.3f}" for each in ratios)
    report.add(Row(section, f"{what}: ratio, median of rounds", ratio, "×", f"≥ {aim}", ratio >= aim, note))


def load() -> str:
    """What else this machine did, for a note."""
    return f"load {psutil.getloadavg()[0]:.1f}"


def chats(count: int, form: Form, *, salt: int) -> list[dict[str, Any]]:
    """Greedy chats of 60 to 150 tokens that are answered with 16 to 48. `salt` changes their words alone."""
    shape, words = random.Random(count), random.Random(salt)
    systems = [_text(words, shape.randint(40, 80)) for _ in range(form.prefixes)]
    singles = []
    for _ in range(count - int(count * form.repeats)):
        turns = [{"role": "system", "content": shape.choice(systems)}] if systems else []
        asked = _text(words, shape.randint(20, 70) if systems else shape.randint(60, 150))
        turns.append({"role": "user", "content": asked})
        tokens = shape.randint(16, 48)
        singles.append({"messages": turns, "max_tokens": tokens, "temperature": 0, "ignore_eos": True})
    chosen = [*singles, *(shape.choice(singles) for _ in range(count - len(singles)))]
    shape.shuffle(chosen)
    return chosen


def _text(words: random.Random, count: int) -> str:
    return " ".join(words.choices(WORDS, k=count))


def through(yard: Yard, bodies: Iterable[dict[str, Any]], *, model: str, path: str, timeout_s: float = 1800) -> Done:
    """One batch, uploaded, then timed from its creation to its completion; its output is read to count the tokens."""
    file = upload(yard, bodies, model=model, path=path)
    begun = time.perf_counter()
    batch = create(yard, file, path=path)
    yard.finished(str(job_of(batch)), timeout_s=timeout_s)
    seconds = time.perf_counter() - begun
    prompt_tokens, tokens = _usage(yard, output_of(yard, batch))
    return Done(seconds, prompt_tokens, tokens)


def straight(
    engines: Target | Sequence[Target],
    bodies: Sequence[dict[str, Any]],
    *,
    at_once: int,
    path: str,
    processes: int = 1,
) -> Done:
    """The same lines on the engine's own socket."""
    found = run(engines, bodies, at_once=at_once, processes=processes, streamed=False, path=path)
    return Done(found.seconds, sum(each.prompt_tokens for each in found.answers), sum(a.tokens for a in found.answers))


def upload(yard: Yard, bodies: Iterable[dict[str, Any]], *, model: str, path: str) -> str:
    """The id of an input file with a line for each body."""
    lines = (
        orjson.dumps({"custom_id": f"line-{n}", "method": "POST", "url": path, "body": {"model": model, **body}})
        for n, body in enumerate(bodies)
    )
    files = {"file": ("input.jsonl", b"\n".join(lines), "application/jsonl")}
    answer = yard.client.post("/v1/files", files=files, data={"purpose": "batch"})
    answer.raise_for_status()
    return str(answer.json()["id"])


def create(yard: Yard, file: str, *, path: str) -> str:
    """The id of a batch of an uploaded file."""
    wish = {"input_file_id": file, "endpoint": path, "completion_window": "24h"}
    answer = yard.client.post("/v1/batches", json=wish)
    answer.raise_for_status()
    return str(answer.json()["id"])


def job_of(batch: str) -> UUID:
    """The job that a batch is."""
    found = parse_prefixed("batch_", batch)
    assert found is not None, f"{batch} is no batch's id"
    return found


def output_of(yard: Yard, batch: str) -> str:
    """The output file of a batch all of whose lines were answered."""
    answer = yard.client.get(f"/v1/batches/{batch}")
    answer.raise_for_status()
    found = answer.json()
    counts = found["request_counts"]
    assert found["status"] == "completed", found
    assert counts["completed"] == counts["total"] > 0, found
    return str(found["output_file_id"])


def _usage(yard: Yard, file: str) -> tuple[int, int]:
    """Prompt and generated tokens that the lines of an output file tell of."""
    prompt_tokens = tokens = 0
    with yard.client.stream("GET", f"/v1/files/{file}/content") as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            usage = orjson.loads(line)["response"]["body"]["usage"]
            prompt_tokens += usage["prompt_tokens"]
            tokens += usage["completion_tokens"]
    return prompt_tokens, tokens
