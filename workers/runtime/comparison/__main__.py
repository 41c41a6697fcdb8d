"""`python -m workers.runtime.comparison`: every policy on one trace. What `modelyard bench batching` starts.

Speaks JSON lines on stdout: `{"policy", "rate", "done", "of"}` as it goes, and at the end `{"result": …}`, or
`{"error": …}` with exit status 1.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from shared.contracts.serving import Batching, Policy
from shared.engine_client import EngineGone
from workers.runtime.comparison.replay import EngineNotReady, engine_on, replay, warm
from workers.runtime.comparison.score import Score
from workers.runtime.comparison.simulation import simulate
from workers.runtime.comparison.trace import Arrival, bursty, hastened

STEP: Final = 1.2  # from one rate of the sweep to the next
STEPS: Final = 10  # up to five times the trace's rate
TOLD: Final = 20  # progress lines of one run, at most

Replay = Callable[[Sequence[Arrival], Batching, float], Awaitable[Score]]


def main() -> int:
    """Compare, and tell; the exit status."""
    asked = _arguments().parse_args()
    try:
        tell(result=asyncio.run(_compare(asked)))
    except (EngineNotReady, EngineGone, ValueError, ExceptionGroup) as error:
        told = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        tell(error=str(told))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def tell(**line: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    sys.stdout.flush()


def batching_of(policy: Policy, *, slo_s: float) -> Batching:
    """A policy with its defaults; elastic gets the objective."""
    return Batching(policy=policy, target_latency_ms=slo_s * 1000 if policy is Policy.ELASTIC else None)


async def sweep(
    run: Replay, trace: Sequence[Arrival], batching: Batching, *, rate: float, p99_s: float
) -> Score | None:
    """Replay a trace of `rate` faster and faster, until the p99 is above `p99_s`.

    The last run before; null when the p99 is above at its own rate.
    """
    best = None
    for step in range(STEPS):
        factor = STEP**step
        found = await run(hastened(trace, factor), batching, rate * factor)
        if found.latency_p99_s > p99_s:
            break
        best = found
    return best


async def _compare(asked: argparse.Namespace) -> dict[str, Any]:
    if not bursty(seconds=asked.seconds, rate=asked.rate, seed=asked.seed):
        raise ValueError("the trace is empty: ask for more seconds, or a higher rate")
    if asked.simulate:
        return await _run_all(asked, _simulated(asked))
    async with engine_on(asked.model, size=asked.size) as client:
        await warm(client, bursty(seconds=60, rate=1, seed=asked.seed), model=asked.model.name)

        async def run(trace: Sequence[Arrival], batching: Batching, rate: float) -> Score:
            every = max(1, len(trace) // TOLD)

            def progress(done: int) -> None:
                if done % every == 0 or done == len(trace):
                    tell(policy=batching.policy, rate=rate, done=done, of=len(trace))

            return await replay(
                client,
                trace,
                batching,
                model=asked.model.name,
                size=asked.size,
                rate=rate,
                slo_s=asked.slo_ms / 1000,
                progress=progress,
            )

        return await _run_all(asked, run)


def _simulated(asked: argparse.Namespace) -> Replay:
    async def run(trace: Sequence[Arrival], batching: Batching, rate: float) -> Score:
        return simulate(trace, batching, size=asked.size, rate=rate, slo_s=asked.slo_ms / 1000)

    return run


async def _run_all(asked: argparse.Namespace, run: Replay) -> dict[str, Any]:
    slo_s = asked.slo_ms / 1000
    policies = [batching_of(policy, slo_s=slo_s) for policy in asked.policies]
    trace = bursty(seconds=asked.seconds, rate=asked.rate, seed=asked.seed)
    scores = [await run(trace, batching, asked.rate) for batching in policies]
    swept = None
    if asked.sweep:
        p99_s = asked.p99_ms / 1000
        found = [await sweep(run, trace, batching, rate=asked.rate, p99_s=p99_s) for batching in policies]
        swept = [asdict(one) for one in found if one is not None]
    return {
        "engine": "simulated" if asked.simulate else asked.model.name,
        "seconds": asked.seconds,
        "rate": asked.rate,
        "seed": asked.seed,
        "size": asked.size,
        "slo_ms": asked.slo_ms,
        "p99_ms": asked.p99_ms,
        "scores": [asdict(one) for one in scores],
        "sweep": swept,
    }


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.runtime.comparison", description=__doc__)
    parser.add_argument("--policies", nargs="+", type=Policy, default=list(Policy))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--slo-ms", type=float, required=True)
    parser.add_argument("--p99-ms", type=float, required=True)
    parser.add_argument("--model", type=Path, help="folder of the model")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
