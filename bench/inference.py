"""Inference: tokens a second through the whole platform, against the engine's socket alone, same prompts."""

import asyncio
import statistics
import time

import httpx

from bench.calls import engine_of
from bench.report import Report, Row
from bench.streams import Target
from bench.yard import Yard

ROUNDS = 3
MODEL = "yard-tiny"
TOKENS = 64
AT_ONCE = 64  # what an engine holds of jobs by default


def prompts(lines: int, *, part: int) -> list[str]:
    """Prompts of different lengths and contents, the same in every run; no two parts share one, so no cache answers."""
    return [
        f"def function_{part}_{number}(" + ", ".join(f"argument_{i}" for i in range(number % 7))
        for number in range(lines)
    ]


def measure(yard: Yard, report: Report, *, lines: int) -> None:
    """Alternate the two, round by round, after one job that loads the model."""
    _platform(yard, prompts(8, part=0))
    engine = engine_of(yard)
    ratios = []
    for number in range(ROUNDS):
        base = asyncio.run(_raw(engine, prompts(lines, part=2 * number + 1)))
        mine = _platform(yard, prompts(lines, part=2 * number + 2))
        ratios.append(mine / base)
        report.add(Row("inference", f"engine's socket alone, {AT_ONCE} at once", base, "tokens/s"))
        report.add(Row("inference", f"one job of {lines} lines, POST to succeeded", mine, "tokens/s"))
    ratio = statistics.median(ratios)
    report.add(Row("inference", "ratio, median of rounds", ratio, "×", "≥ 0.9", ratio >= 0.9))


async def _raw(engine: Target, given: list[str]) -> float:
    transport = httpx.AsyncHTTPTransport(uds=engine.uds)
    gate = asyncio.Semaphore(AT_ONCE)
    held = {"Authorization": f"Bearer {engine.token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=held, timeout=300) as client:

        async def one(prompt: str) -> int:
            body = {"model": engine.model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
            async with gate:
                answer = await client.post("/v1/completions", json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        begun = time.perf_counter()
        tokens = sum(await asyncio.gather(*(one(prompt) for prompt in given)))
        return tokens / (time.perf_counter() - begun)


def _platform(yard: Yard, given: list[str]) -> float:
    spec = {"model": MODEL, "prompts": given, "max_tokens": TOKENS, "ignore_eos": True}
    begun = time.perf_counter()
    job = yard.finished(yard.submit("inference", spec))
    seconds = time.perf_counter() - begun
    assert job["state"] == "succeeded", job["error"]
    return float(job["usage"]["completion_tokens"]) / seconds
