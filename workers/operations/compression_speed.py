"""How fast a model is on the engine that would serve it: one request at a time, streamed, as interactive callers ask.

Requests take their turns in the engine's lane: they give way to interactive calls, and the job pays for them as an
inference job does. A model that cannot be had on an engine now is told so; it is no failure.
"""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import orjson

from services.catalog import service as catalog
from services.catalog.figures import text_config
from services.inference.models import ModelFacts
from services.inference.models import facts as facts_of
from services.inference.service import ServedModel as StoredModel
from services.jobs.plan import fit
from shared.clock import monotonic
from shared.contracts.evaluation import ModelFigures, ServedFigures
from shared.engine_client import EngineGone
from shared.queues import gpu_class
from workers.operations.compression_results import say
from workers.runtime.batching.values import Cost
from workers.runtime.engine import Engine
from workers.runtime.host import Host
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.served import ServedModel
from workers.runtime.work import Work

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 64
REQUESTS: Final = 3  # after one that warms up
LONGEST_S: Final = 120.0  # all requests together; an engine that is slower is told so
STEP: Final = 7919  # a prime, so that a prompt's tokens differ
CHUNK: Final = re.compile(rb'"choices":\s*\[\{')


@dataclass(frozen=True)
class Speed:
    """What was found, or why nothing was."""

    served: ServedFigures | None = None
    not_served: str | None = None

    def __str__(self) -> str:
        if self.served is None:
            return f"not measured. {self.not_served}"
        return f"{self.served.ttft_ms:.1f} ms to the first token, {self.served.tokens_per_second:.1f} tokens/s after it"

    def into(self, figures: ModelFigures) -> ModelFigures:
        """A model's figures with those of its engine."""
        return figures.model_copy(update={"served": self.served, "not_served": self.not_served})


@dataclass(frozen=True)
class _Answer:
    ttft_s: float
    tokens_per_second: float
    prompt_tokens: int
    completion_tokens: int


class _Unanswered(Exception):
    """The engine gave no answer that can be timed."""


async def measure(work: Work, host: Host, model: ServedModel, *, facts: ModelFacts, vocabulary: int) -> Speed:
    """Time a model on an engine of this worker, which stays loaded. `vocabulary` is the number of its tokens."""
    devices = fit(gpu_class(work.claim.gpu_class), facts.needs(PROMPT_TOKENS + OUTPUT_TOKENS))
    if devices is None:
        speed = Speed(not_served=f"GPU class {work.claim.gpu_class} cannot serve it.")
    else:
        speed = await _attempt(work, host, model, devices=devices, vocabulary=vocabulary)
    await say(work, host, f"{model.name} on an engine: {speed}")
    return speed


async def _attempt(work: Work, host: Host, model: ServedModel, *, devices: int, vocabulary: int) -> Speed:
    try:
        return Speed(served=await _on_engine(work, host, model, devices=devices, vocabulary=vocabulary))
    except EngineFailed as failure:
        reason = " ".join(filter(None, [f"{failure.error.title}.", failure.error.detail]))
    except (EngineGone, _Unanswered) as error:
        reason = f"The engine gave no answer ({error})."
    except TimeoutError:
        reason = "No engine was ready and answered in time: the worker's devices are in use, or it is slow."
    return Speed(not_served=reason)


async def _on_engine(work: Work, host: Host, model: ServedModel, *, devices: int, vocabulary: int) -> ServedFigures:
    bound = asyncio.timeout(host.settings.place_wait_s)
    async with bound, host.engines.use(work, model, devices=devices) as engine:
        clock = asyncio.get_running_loop().time
        bound.reschedule(clock() + host.settings.engine_start_s)
        await engine.prepare(work)
        bound.reschedule(clock() + LONGEST_S)
        try:
            bodies = [_body(work, model, vocabulary, number) for number in range(REQUESTS + 1)]
            answers = [await _ask(work, engine, body) for body in bodies][1:]
        except BaseException:
            await engine.forget_aborted(within_s=host.settings.cancel_abort_s)
            raise
        return await _figures(work, host, engine, answers)


async def _figures(work: Work, host: Host, engine: Engine, answers: list[_Answer]) -> ServedFigures:
    if engine.process is not None:
        with suppress(EngineGone, TimeoutError, ValueError):
            await engine.look(engine.process)  # how much memory it holds by now
    load_s = engine.load_s
    if load_s is None:  # another worker has started it
        kept = await host.engines.measured(engine)
        load_s = kept.load_s if kept else 0.0
    return ServedFigures(
        engine=engine.kind,
        gpu_class=work.claim.gpu_class,
        devices=len(engine.slots),
        load_s=load_s,
        memory_bytes=(engine.stats.memory_bytes or None) if engine.stats else None,
        ttft_ms=round(median(answer.ttft_s for answer in answers) * 1000, 3),
        tokens_per_second=round(median(answer.tokens_per_second for answer in answers), 3),
        prompt_tokens=answers[0].prompt_tokens,
        completion_tokens=answers[0].completion_tokens,
    )


def _body(work: Work, model: ServedModel, vocabulary: int, number: int) -> dict[str, Any]:
    """A prompt of token ids from the middle of the vocabulary: special ones are at its ends.

    No two prompts begin alike, whatever the request and the job: no cache answers for the engine.
    """
    context = model.serving.context_length or model.context_length
    length = min(PROMPT_TOKENS, context // 2)
    first, span = vocabulary // 8, max(1, vocabulary // 4)
    salt = work.id.int + number * 31
    return {
        "model": model.digest,
        "prompt": [first + (salt + place * STEP) % span for place in range(length)],
        "max_tokens": min(OUTPUT_TOKENS, context - length - 1),
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _ask(work: Work, engine: Engine, body: dict[str, Any]) -> _Answer:
    process, cost = await engine.ready(), Cost(len(body["prompt"]), body["max_tokens"])
    async with engine.lane.turn(work, cost=cost) as turn:
        asked, first = monotonic(), 0.0
        answer = await process.client.open("/v1/completions", orjson.dumps(body))
        said = bytearray()
        try:
            while not answer.ended:
                piece = await answer.read()
                said += piece
                if not first and CHUNK.search(said):
                    first = monotonic()
        finally:
            answer.close()
        ended = monotonic()
        usage = _usage(answer.status, bytes(said))
        turn.output_tokens = usage["completion_tokens"]
    count = usage["completion_tokens"]
    if count < 2 or not first:
        raise _Unanswered(f"{count} tokens")
    return _Answer(first - asked, (count - 1) / (ended - first), usage["prompt_tokens"], count)


def _usage(status: int, said: bytes) -> dict[str, int]:
    """The counts of a stream's last chunk."""
    if status != 200:
        raise _Unanswered(f"status {status}")
    for line in reversed(said.split(b"\n")):
        if b'"usage"' in line and line.startswith(b"data:"):
            found = orjson.loads(line.removeprefix(b"data:")).get("usage")
            if found:
                return dict(found)
    raise _Unanswered("no usage")


async def registered(work: Work, host: Host, model: StoredModel) -> Speed:
    """The same of a version that is in the catalog."""
    facts = await host.transactions.insist(
        lambda session, _: facts_of(catalog.by_id(session, model.tenant_id, model.id))
    )
    return await measure(work, host, host.served(model), facts=facts, vocabulary=vocabulary_of(model.config))


def vocabulary_of(config: dict[str, Any]) -> int:
    """Tokens of a model's vocabulary, as its configuration says."""
    return int(text_config(config).get("vocab_size") or 0)
