"""Conversations about parts of documents: from the response cache, else from the engine, which is taken when needed."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Self

from services.inference.service import CHARACTERS_PER_TOKEN, ServedModel
from services.responses.keys import key_of
from services.responses.types import Key
from shared.contracts.bodies import BadRequest, parse
from shared.contracts.documents import DocumentSetSpec
from shared.contracts.jobs import JobError
from shared.contracts.openai import ChatBody
from workers.operations.asking import Answered, Asker
from workers.operations.lines import Line, LineCache
from workers.operations.storable import told
from workers.runtime.batching.values import Cost
from workers.runtime.engine import Engine
from workers.runtime.host import Host
from workers.runtime.work import Work

PATH: Final = "/v1/chat/completions"
WAITING: Final = 2  #: conversations for each place of the engine: one in it, one whose answer is looked through

Turn = Mapping[str, str]


@dataclass(frozen=True)
class Said:
    """An answer's text and its tokens; `refused` instead, when there is none."""

    text: str = ""
    cut_off: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused: JobError | None = None


class Desk:
    """Where one attempt asks. A context: when it is left early, the engine has let go of what was asked."""

    def __init__(self, work: Work, host: Host, *, model: ServedModel, spec: DocumentSetSpec) -> None:
        self._work = work
        self._host = host
        self._model = model
        self._spec = spec
        self._cache = LineCache(host)
        self._stack = AsyncExitStack()
        self._turn = asyncio.Lock()
        self._engine: Engine | None = None
        self._asker: Asker | None = None
        self._numbers = count()
        self.places = asyncio.Semaphore(WAITING * host.settings.engine_max_in_flight)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            if kind is not None and self._engine is not None:
                await self._engine.forget_aborted(within_s=self._host.settings.cancel_abort_s)
        finally:
            await self._stack.aclose()
            await self._cache.close()

    async def ask(self, turns: Sequence[Turn], *, schema: dict[str, Any] | None) -> Said:
        """The answer to a conversation.

        Raises:
            EngineFailed: the engine keeps dying, or cannot be started.
        """
        line = self._line(turns, schema)
        found = await self._cache.find([line])
        answer = told(found[line.number].body) if line.number in found else None
        if answer is not None:
            return _said(Answered(200, answer, fresh=False))
        asker = await self._open()
        return _said(await asker.answer(line))

    async def _open(self) -> Asker:
        """The way to the engine, which is taken by the first who has something to ask."""
        async with self._turn:
            if self._asker is None:
                using = self._host.engines.use(
                    self._work, self._host.served(self._model), devices=self._work.claim.devices
                )
                self._engine = await self._stack.enter_async_context(using)
                self._asker = Asker(self._work, self._host, self._engine, self._cache)
            return self._asker

    def _line(self, turns: Sequence[Turn], schema: dict[str, Any] | None) -> Line:
        body: dict[str, Any] = {"model": self._model.served_as, "messages": list(turns)}
        body |= {"max_tokens": self._spec.max_tokens, "temperature": self._spec.temperature}
        if self._spec.guided and schema is not None:
            form = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        if (seed := self._seed_of(body)) is not None:
            body["seed"] = seed
        said = sum(len(turn["content"]) for turn in turns)
        cost = Cost(prompt_tokens=said // CHARACTERS_PER_TOKEN, output_tokens=self._spec.max_tokens)
        return Line(next(self._numbers), PATH, body, cost, self._key(body))

    def _seed_of(self, body: Mapping[str, Any]) -> int | None:
        """The caller's seed; where answers are drawn without one, one made of the request: every attempt's is equal."""
        if self._spec.seed is not None or self._spec.temperature == 0:
            return self._spec.seed
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
        return int.from_bytes(digest[:8]) >> 1

    def _key(self, body: Mapping[str, Any]) -> Key | None:
        try:
            checked = parse(body, ChatBody)
        except BadRequest:
            return None  # the engine says what is wrong with it
        adapter = self._model.adapter.digest if self._model.adapter else None
        return key_of(checked, tenant_id=self._work.claim.tenant_id, digest=self._model.digest, adapter=adapter)


def _said(answered: Answered) -> Said:
    if answered.status != 200:
        return Said(refused=answered.error)
    choice, usage = answered.body["choices"][0], answered.body["usage"]
    return Said(
        text=choice["message"]["content"] or "",
        cut_off=choice["finish_reason"] == "length",
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
    )
