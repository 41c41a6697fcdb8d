"""Inference: tokens a second through the whole platform, against the engine's socket alone, same prompts."""

import asyncio
import statistics
import time

import httpx
from sqlalchemy import text

from bench.report import Report, Row
from bench.yard import Yard

ROUNDS = 3
MODEL = "yard-tiny"
TOKENS = 64


def prompts(lines: int) -> list[str]:
    """Prompts of different lengths and contents, the same in every run."""
    return [
        f"def function_{number}(" + ", ".join(f"argument_{i}" for i in range(number % 7)) for number in range(lines)
    ]


def measure(yard: Yard, report: Report, *, lines: int) -> None:
    """Alternate the two, round by round, after one job that loads the model."""
    given = prompts(lines)
    spec = {"model": MODEL, "prompts": given, "max_tokens": TOKENS, "ignore_eos": True}
    yard.finished(yard.submit("inference", spec | {"prompts": given[:8]}))
    address, at_once = _engine(yard)
    ratios = []
    for _ in range(ROUNDS):
        base = asyncio.run(_raw(address, given, at_once=at_once))
        mine = _platform(yard, spec)
        ratios.append(mine / base)
        report.add(Row("inference", f"engine's socket alone, {at_once} at once", base, "tokens/s"))
        report.add(Row("inference", f"one job of {lines} lines, POST to succeeded", mine, "tokens/s"))
    ratio = statistics.median(ratios)
    report.add(Row("inference", "ratio, median of rounds", ratio, "×", "≥ 0.9", ratio >= 0.9))


def _engine(yard: Yard) -> tuple[str, int]:
    with yard.database.transaction() as session:
        row = session.execute(text("SELECT address, max_in_flight FROM engines WHERE state = 'ready'")).one()
    return str(row.address), int(row.max_in_flight)


async def _raw(address: str, given: list[str], *, at_once: int) -> float:
    transport = httpx.AsyncHTTPTransport(uds=address.removeprefix("unix:"))
    gate = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=300) as client:

        async def one(prompt: str) -> int:
            body = {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
            async with gate:
                answer = await client.post("/v1/completions", json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        begun = time.perf_counter()
        tokens = sum(await asyncio.gather(*(one(prompt) for prompt in given)))
        return tokens / (time.perf_counter() - begun)


def _platform(yard: Yard, spec: dict[str, object]) -> float:
    begun = time.perf_counter()
    job = yard.finished(yard.submit("inference", spec))
    seconds = time.perf_counter() - begun
    assert job["state"] == "succeeded", job["error"]
    return float(job["usage"]["completion_tokens"]) / seconds
