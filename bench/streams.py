"""A load client of OpenAI's routes: the same code on an engine's socket and on a gateway, so that only they differ."""

import asyncio
import multiprocessing
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

LIMIT = 1 << 20  # of one read


@dataclass(frozen=True)
class Target:
    """Who answers: a Unix socket or an address, with a bearer token, under a model's name there."""

    model: str
    token: str = ""
    uds: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def of_engine(cls, address: str, *, model: str, token: str | None) -> "Target":
        """An engine as its row names it: `unix:/path` or `http://host:port`."""
        if address.startswith("http://"):
            host, _, port = address.removeprefix("http://").rpartition(":")
            return cls(model=model, token=token or "", host=host.strip("[]"), port=int(port))
        return cls(model=model, token=token or "", uds=address.removeprefix("unix:"))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A fresh connection."""
        if self.uds:
            return await asyncio.open_unix_connection(self.uds, limit=LIMIT)
        return await asyncio.open_connection(self.host, self.port, limit=LIMIT)

    def request(self, path: str, body: dict[str, Any]) -> bytes:
        """A complete HTTP/1.1 POST."""
        data = orjson.dumps({"model": self.model, **body})
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(data)}", f"Authorization: Bearer {self.token}"]
        return "\r\n".join([*lines, "", ""]).encode() + data


@dataclass(frozen=True)
class Answered:
    """One streamed completion. Seconds."""

    ttft: float
    whole: float
    prompt_tokens: int
    tokens: int

    @property
    def itl(self) -> float:
        """Mean time between tokens after the first."""
        return (self.whole - self.ttft) / max(1, self.tokens - 1)


@dataclass(frozen=True)
class Run:
    """What a set of streams met; `seconds` is from the first request to the last byte."""

    seconds: float
    answers: tuple[Answered, ...]

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second, prefill time included."""
        return sum(answer.tokens for answer in self.answers) / self.seconds

    def ttft_ms(self, share: float = 0.5) -> float:
        """Time to the first token that `share` of the streams stayed under."""
        return percentile([answer.ttft for answer in self.answers], share) * 1e3

    def itl_ms(self, share: float = 0.5) -> float:
        """Mean inter-token latency of a stream that `share` of them stayed under."""
        return percentile([answer.itl for answer in self.answers], share) * 1e3


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def whole(target: Target, body: dict[str, Any], *, path: str = "/v1/completions") -> Answered:
    """One answer that is not streamed; its first token is not seen before the last.

    Raises:
        RuntimeError: it was refused; with what was answered.
    """
    reader, writer = await target.connect()
    try:
        return await _exchange(reader, writer, target.request(path, body))
    finally:
        writer.close()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> Answered:
    begun = time.perf_counter()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = next(int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    answer = await reader.readexactly(size)
    ended = time.perf_counter()
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError((head + answer).decode(errors="replace"))
    usage = orjson.loads(answer)["usage"]
    return Answered(ended - begun, ended - begun, usage["prompt_tokens"], usage["completion_tokens"])


async def stream(target: Target, body: dict[str, Any], *, path: str = "/v1/completions") -> Answered:
    """One stream, read to its end.

    Raises:
        RuntimeError: it was refused, or did not end as it should; with what was answered.
    """
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    reader, writer = await target.connect()
    try:
        begun = time.perf_counter()
        writer.write(target.request(path, asked))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError((head + await reader.read(4096)).decode(errors="replace"))
        received, first = bytearray(), 0.0
        while b"data: [DONE]" not in received[-64:]:
            part = await reader.read(LIMIT)
            if not part:
                raise RuntimeError(f"the stream broke: {received[-400:]!r}")
            received += part
            if not first and b'"text"' in received:
                first = time.perf_counter()
        ended = time.perf_counter()
    finally:
        writer.close()
    usage = _usage(bytes(received))
    return Answered(first - begun, ended - begun, usage["prompt_tokens"], usage["completion_tokens"])


def _usage(received: bytes) -> dict[str, int]:
    at = received.rindex(b'"usage":{')
    line = received[received.rindex(b"data: ", 0, at) + 6 : received.index(b"\n", at)]
    found: dict[str, int] = orjson.loads(line)["usage"]
    return found


async def closed_loop(
    target: Target,
    bodies: Sequence[dict[str, Any]],
    *,
    at_once: int,
    streamed: bool = True,
    path: str = "/v1/completions",
) -> list[Answered]:
    """Every body once, `at_once` of them in flight. Who asks for whole answers keeps its connection."""
    rest = iter(bodies)

    async def listener() -> list[Answered]:
        return [await stream(target, body, path=path) for body in rest]

    async def asker() -> list[Answered]:
        reader, writer = await target.connect()
        try:
            return [await _exchange(reader, writer, target.request(path, body)) for body in rest]
        finally:
            writer.close()

    client = listener if streamed else asker
    found = await asyncio.gather(*(client() for _ in range(at_once)))
    return [answer for answers in found for answer in answers]


@dataclass(frozen=True)
class _Share:
    """What one process sends."""

    target: Target
    bodies: Sequence[dict[str, Any]]
    at_once: int
    streamed: bool
    path: str

    def send(self) -> list[Answered]:
        loop = closed_loop(self.target, self.bodies, at_once=self.at_once, streamed=self.streamed, path=self.path)
        return asyncio.run(loop)


def run(
    targets: Target | Sequence[Target],
    bodies: Sequence[dict[str, Any]],
    *,
    at_once: int,
    processes: int = 1,
    streamed: bool = True,
    path: str = "/v1/completions",
) -> Run:
    """Every body once, `at_once` in flight, from so many processes: one Python reads some 20,000 events a second.

    Several targets get equal shares; `processes` must be a multiple of their number.
    """
    several = [targets] if isinstance(targets, Target) else list(targets)
    shares = [
        _Share(several[n % len(several)], bodies[n::processes], at_once // processes, streamed, path)
        for n in range(processes)
    ]
    if processes == 1:
        begun = time.perf_counter()
        answers = shares[0].send()
        return Run(time.perf_counter() - begun, tuple(answers))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_nothing, range(processes))  # the interpreters are there before the clock starts
        begun = time.perf_counter()
        answers = [answer for part in pool.map(_Share.send, shares, chunksize=1) for answer in part]
        return Run(time.perf_counter() - begun, tuple(answers))


def _nothing(number: int) -> int:
    return number


def token_bodies(count: int, *, tokens_in: int, tokens_out: int, vocabulary: int, seed: int) -> list[dict[str, Any]]:
    """Completions of random token ids, greedy, of exactly `tokens_out` tokens; no two share a prefix."""
    chosen = random.Random(seed)
    return [
        {
            "prompt": [chosen.randrange(256, vocabulary) for _ in range(tokens_in)],
            "max_tokens": tokens_out,
            "temperature": 0,
            "ignore_eos": True,
        }
        for _ in range(count)
    ]
