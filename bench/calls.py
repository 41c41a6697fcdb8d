"""Interactive calls: what the gateway adds, what a cache hit costs, what a batch beside them does."""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from sqlalchemy import text

from bench.load import closed_loop, post_bytes
from bench.report import Report, Row
from bench.streams import Answered, Run, Target, percentile, run, stream, whole
from bench.yard import Yard, until

MODEL = "yard-tiny"
TOKENS = 64
STREAMS = 64
ROUNDS = 5


def measure(yard: Yard, report: Report, *, scale: float) -> None:
    """Cold start, then overhead, throughput, cache hits, and interactive calls beside a batch."""
    gateway = Target(model=MODEL, token=yard.key, host=yard.address[0], port=yard.address[1])
    until(lambda: b"spare_ready" in (yard.data / "logs" / "engine-spare.log").read_bytes())
    _first_token(report, gateway)
    engine = engine_of(yard)
    _overhead(report, engine, gateway, calls=max(20, int(200 * scale)))
    _throughput(report, engine, gateway, rounds=max(1, int(ROUNDS * scale)))
    _cache_hit(yard, report, calls=max(50, int(1000 * scale)))
    _beside_a_batch(yard, report, gateway, calls=max(10, int(60 * scale)))


def engine_of(yard: Yard, *, model: str = MODEL) -> Target:
    """The ready engine of a model, as its row says, to be asked directly."""
    return engines_of(yard, model=model, count=1)[0]


def engines_of(yard: Yard, *, model: str, count: int, timeout_s: float = 60) -> list[Target]:
    """The ready engines of a model, as soon as there are `count`."""
    query = text(
        "SELECT e.address, e.token, e.model_digest FROM engines e JOIN models m ON m.digest = e.model_digest"
        " WHERE e.state IN ('ready', 'busy') AND m.name = :model ORDER BY e.id"
    )

    def ready() -> list[Target]:
        with yard.database.transaction() as session:
            rows = session.execute(query, {"model": model}).all()
        return [Target.of_engine(row.address, model=row.model_digest, token=row.token) for row in rows]

    until(lambda: len(ready()) >= count, timeout_s=timeout_s)
    return ready()


def bodies(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Seeded completions of `TOKENS` tokens; no two alike, so that no cache answers."""
    chosen = random.Random(seed)
    return [
        {
            "prompt": f"def function_{chosen.getrandbits(64):x}(argument):",
            "max_tokens": TOKENS,
            "temperature": 1.0,
            "ignore_eos": True,
        }
        for _ in range(count)
    ]


def _first_token(report: Report, gateway: Target) -> None:
    """The first call of all: no engine has the model yet."""
    found = asyncio.run(stream(gateway, bodies(1, seed=0)[0]))
    report.add(Row("calls", "first token of a model that no engine has", found.ttft, "s", "< 2", found.ttft < 2))


def _overhead(report: Report, engine: Target, gateway: Target, *, calls: int) -> None:
    """One caller, alternating: whole answers, then streams' first tokens and ends, here and there."""
    answers = _alternating(engine, gateway, calls, ask=whole, seed=1)
    _added(report, "answer in one piece", *answers, field="whole")
    streams = _alternating(engine, gateway, calls, ask=stream, seed=2)
    _added(report, "first token of a stream", *streams, field="ttft")
    _added(report, f"stream of {TOKENS} tokens", *streams, field="whole")


Ask = Callable[[Target, dict[str, Any]], Awaitable[Answered]]


def _alternating(
    engine: Target, gateway: Target, calls: int, *, ask: Ask, seed: int
) -> tuple[list[Answered], list[Answered]]:
    given = bodies(2 * calls, seed=seed)

    async def alternate() -> tuple[list[Answered], list[Answered]]:
        raw: list[Answered] = []
        ours: list[Answered] = []
        for n in range(calls):
            raw.append(await ask(engine, given[2 * n]))
            ours.append(await ask(gateway, given[2 * n + 1]))
        return raw, ours

    return asyncio.run(alternate())


def _added(report: Report, what: str, raw: list[Answered], ours: list[Answered], *, field: str) -> None:
    base, mine = (percentile([getattr(answer, field) for answer in side], 0.5) * 1e3 for side in (raw, ours))
    report.add(Row("calls", f"{what}, engine's socket, p50", base, "ms"))
    report.add(Row("calls", f"{what}, through the gateway, p50", mine, "ms"))
    report.add(Row("calls", f"{what}: added, p50", mine - base, "ms", "≤ 10", mine - base <= 10))


def _throughput(report: Report, engine: Target, gateway: Target, *, rounds: int) -> None:
    """64 concurrent streams, round by round."""
    ratios = []
    run(engine, bodies(STREAMS, seed=6), at_once=STREAMS)
    for n in range(rounds):
        raw = run(engine, bodies(2 * STREAMS, seed=100 + n), at_once=STREAMS)
        ours = run(gateway, bodies(2 * STREAMS, seed=200 + n), at_once=STREAMS)
        ratios.append(ours.tokens_per_s / raw.tokens_per_s)
        _pair(report, raw, ours)
    ratio = statistics.median(ratios)
    report.add(Row("calls", f"{STREAMS} streams: ratio, median of rounds", ratio, "×", "≥ 0.9", ratio >= 0.9))


def _pair(report: Report, raw: Run, ours: Run) -> None:
    report.add(Row("calls", f"{STREAMS} streams, engine's socket", raw.tokens_per_s, "tokens/s"))
    report.add(Row("calls", f"{STREAMS} streams, through the gateway", ours.tokens_per_s, "tokens/s"))


def _cache_hit(yard: Yard, report: Report, *, calls: int) -> None:
    """The same greedy chat again and again, beside the cheapest route."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "again"}], "max_tokens": 16, "temperature": 0}
    first = yard.client.post("/v1/chat/completions", json=body)
    first.raise_for_status()
    second = yard.client.post("/v1/chat/completions", json=body)
    assert second.headers["x-cache"] == "hit", second.headers
    with httpx.Client(base_url=yard.url, headers={"Authorization": f"Bearer {yard.key}"}) as client:
        hit, bare = [], []
        for _ in range(calls):
            bare.append(_timed(client, "GET", "/health/live", None))
            hit.append(_timed(client, "POST", "/v1/chat/completions", body))
    base, mine = percentile(bare, 0.5) * 1e3, percentile(hit, 0.5) * 1e3
    report.add(Row("calls", "bare route, p50", base, "ms"))
    report.add(Row("calls", "cache hit, p50", mine, "ms"))
    report.add(Row("calls", "cache hit: added, p50", mine - base, "ms", "≤ 5", mine - base <= 5))
    request = post_bytes(
        "/v1/chat/completions", httpx.Request("POST", "http://x", json=body).content, host="localhost", key=yard.key
    )
    load = asyncio.run(closed_loop(*yard.address, request, clients=16, seconds=2, expect=200))
    report.add(Row("calls", "cache hits, 16 callers", load.rate, "answers/s"))


def _timed(client: httpx.Client, method: str, path: str, body: object) -> float:
    begun = time.perf_counter()
    client.request(method, path, json=body).raise_for_status()
    return time.perf_counter() - begun


def _beside_a_batch(yard: Yard, report: Report, gateway: Target, *, calls: int) -> None:
    """One caller's time to the first token, idle and while a long job runs on the same engine."""
    idle = _ttfts(gateway, calls, seed=3)
    prompts = [body["prompt"] for body in bodies(5000, seed=4)]
    spec = {"model": MODEL, "prompts": prompts[:1000], "max_tokens": 128, "ignore_eos": True, "temperature": 1.0}
    job = yard.submit("inference", spec, tier="batch")
    until(lambda: yard.job(job)["progress"]["done"] > 0)
    busy = _ttfts(gateway, calls, seed=5)
    still = yard.job(job)["state"]
    yard.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    yard.finished(job)
    assert still == "running", f"the batch was {still} before the calls had ended"
    base, mine = percentile(idle, 0.95) * 1e3, percentile(busy, 0.95) * 1e3
    report.add(Row("calls", "first token, idle, p95", base, "ms"))
    report.add(Row("calls", "first token, while a batch runs, p95", mine, "ms"))
    ratio = mine / base
    report.add(Row("calls", "first token, batch beside idle, p95", ratio, "×", "≤ 1.5", ratio <= 1.5))


def _ttfts(target: Target, calls: int, *, seed: int) -> list[float]:
    async def some() -> list[float]:
        return [(await stream(target, body | {"max_tokens": 16})).ttft for body in bodies(calls, seed=seed)]

    return asyncio.run(some())
