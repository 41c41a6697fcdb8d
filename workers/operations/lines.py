"""Lines of a job as requests to an engine, and what the response cache knows of them.

A line's key is the interactive route's key for the same request: a chat warmed by a job is a hit, and the other way
round. What is found there is never asked for; a job whose lines are all found needs no engine.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from services.inference.service import CHARACTERS_PER_TOKEN, ServedModel
from services.jobs.types import Claim
from services.responses import service as responses
from services.responses import streams
from services.responses.keys import PLAIN, key_of
from services.responses.service import Limits
from services.responses.types import Key, Stored
from shared.contracts.bodies import BadRequest, parse
from shared.contracts.caching import CacheWish
from shared.contracts.inference import FORWARDED
from shared.contracts.openai import ChatBody, CompletionBody
from shared.db.models import JobItem
from workers.operations.storable import SUSPICIOUS
from workers.runtime.batching.values import Cost
from workers.runtime.host import Host

PAGE: Final = 32  #: answers looked up at once: of 4 KiB each they take 1 ms


@dataclass(frozen=True)
class Line:
    """One line as a request. `key` is None when its answer may differ every time."""

    number: int
    path: str
    body: Mapping[str, Any]
    cost: Cost
    key: Key | None
    wish: CacheWish | None = None  #: about the cache; null: what the whole attempt wishes
    name: str = ""  #: what the caller calls the model
    answers: int = 1  #: texts or vectors that come back


class Requests:
    """Makes requests of a job's lines."""

    def __init__(self, claim: Claim, model: ServedModel) -> None:
        self._tenant = claim.tenant_id
        self._base = model.digest
        self._adapter = model.adapter.digest if model.adapter else None
        self._name = model.served_as
        self._wishes = {name: claim.spec[name] for name in FORWARDED if claim.spec.get(name) is not None}
        self.wish = CacheWish.model_validate(claim.spec.get("cache") or {})

    def line(self, item: JobItem) -> Line:
        """The request that a line is."""
        chat = "messages" in item.input
        body = {"model": self._name, **self._wishes, **item.input}
        said = sum(len(turn["content"]) for turn in item.input["messages"]) if chat else len(item.input["prompt"])
        cost = Cost(prompt_tokens=said // CHARACTERS_PER_TOKEN, output_tokens=body["max_tokens"])
        path = "/v1/chat/completions" if chat else "/v1/completions"
        return Line(item.line_no, path, body, cost, self._key(body, chat=chat))

    def _key(self, body: Mapping[str, Any], *, chat: bool) -> Key | None:
        """Equal lines run once even where the cache is switched off for the job."""
        try:
            checked = parse(body, ChatBody) if chat else parse(body, CompletionBody)
        except BadRequest:
            return None  # the engine says what is wrong with it
        wish = PLAIN if self.wish.mode == "off" else self.wish
        return key_of(checked, tenant_id=self._tenant, digest=self._base, adapter=self._adapter, wish=wish)


class LineCache:
    """The response cache for the lines of one attempt. What the engine answers is kept in groups, beside the work."""

    def __init__(self, host: Host, wish: CacheWish = PLAIN) -> None:
        self._host = host
        self._wish = wish
        self._limits = Limits.of(host.settings)
        self._stamps: dict[Key, bytes] = {}  #: of lines that are being asked for
        self._waiting: defaultdict[tuple[bytes, int | None], dict[Key, Stored]] = defaultdict(dict)  #: by stamp and TTL
        self._writing: asyncio.Task[None] | None = None

    async def find(self, lines: Sequence[Line]) -> dict[int, Stored]:
        """Answers by the number of the line. All lines are for one model."""
        keys = list(dict.fromkeys(line.key for line in lines if line.key is not None and self._keeps(line)))
        found: dict[Key, Stored] = {}
        for at in range(0, len(keys), PAGE):
            some = keys[at : at + PAGE]
            page = await self._host.blocking(partial(responses.look_many, self._host.cache, some))
            if page.stamp is None:
                break  # it is away: nobody asks again before the next page of lines
            self._stamps |= dict.fromkeys(some, page.stamp)
            found |= page.found
        wanted = [line for line in lines if self._keeps(line) and self._wish_of(line).mode != "refresh"]
        return {line.number: found[line.key] for line in wanted if line.key in found}

    def keep(self, line: Line, body: bytes) -> None:
        """Keep the engine's answer. Returns at once."""
        if line.key is None or not self._keeps(line):
            return
        stamp = self._stamps.pop(line.key, None)
        stored = streams.kept(body) if stamp is not None and not SUSPICIOUS.search(body) else None
        if stamp is None or stored is None:
            return
        self._waiting[stamp, self._wish_of(line).ttl][line.key] = stored
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Return when everything is kept."""
        if self._writing is not None:
            await self._writing

    def _wish_of(self, line: Line) -> CacheWish:
        return self._wish if line.wish is None else line.wish

    def _keeps(self, line: Line) -> bool:
        """Whether the line's answer is kept, and one that was kept may do."""
        return self._limits.ttl_s > 0 and self._wish_of(line).mode != "off"

    async def _write(self) -> None:
        while self._waiting:
            (stamp, ttl_s), answers = self._waiting.popitem()
            put = partial(responses.put, self._host.cache, answers, stamp=stamp, limits=self._limits)
            await self._host.blocking(partial(put, ttl_s=ttl_s))
        self._writing = None
