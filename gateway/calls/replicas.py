"""The replicas that this gateway can reach, as it last read them, and what it has in flight at each.

Read anew when a notification says that engines changed, and when what is known is older than `FRESH_S`.
"""

import asyncio
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Final
from uuid import UUID

from gateway.edge import Edge
from services.placement import service as placement
from services.placement.types import Replica
from shared.clock import monotonic
from shared.contracts.serving import Mode
from shared.engine_client import EngineClient
from shared.errors import DatabaseUnavailable

FRESH_S: Final = 2.0
OLD_S: Final = 10.0  #: nobody is placed by what was read so long ago
AWAY_S, LONGEST_AWAY_S = 0.25, 4.0  #: a replica that hung up is left alone for so long
FULL_S: Final = 0.05  #: a replica that said it was full, too
CROWDED: Final = 0.9  #: of what it admits: then affinity gives way


@dataclass(eq=False)
class Seat:
    """A replica, and our calls at it."""

    replica: Replica
    client: EngineClient
    calls: int = 0  #: ours, in flight
    others: int = 0  #: sequences of jobs and other gateways, by its last figures
    failures: int = 0  #: in a row
    away_until: float = 0.0

    @property
    def load(self) -> float:
        """Sequences that it holds, as a share of what it admits."""
        return (self.calls + self.others) / max(1, self.replica.max_in_flight)

    def failed(self) -> None:
        """It broke off."""
        self.away_until = monotonic() + min(LONGEST_AWAY_S, AWAY_S * 2.0**self.failures)
        self.failures += 1

    def full(self) -> None:
        """It takes nobody at the moment."""
        self.away_until = monotonic() + FULL_S

    def answered(self) -> None:
        """It works."""
        self.failures = 0


@dataclass
class Replicas:
    """Seats by engine. Used on the gateway's loop."""

    edge: Edge
    host: str = field(default_factory=socket.gethostname)
    _seats: dict[UUID, Seat] = field(default_factory=dict)
    _at: float = 0.0
    _reading: asyncio.Task[None] | None = None
    _stale: bool = True
    changed: asyncio.Event = field(default_factory=asyncio.Event)  #: replaced by a new one each time it is set

    def heard(self, digest: str) -> None:
        """Engines of a model changed, or (empty) something may have been missed."""
        del digest  # one statement reads them all
        self._stale = True
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def fresh(self) -> None:
        """Read them anew if what we know may be out of date. A database that is away leaves things as they are."""
        while self._stale or monotonic() - self._at > OLD_S:
            await asyncio.shield(self._reads())
        if monotonic() - self._at > FRESH_S:
            self._reads()  # good enough meanwhile

    def _reads(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return self._reading

    def offered(self, digest: str, *, mode: Mode, adapter: str | None) -> list[Seat]:
        """Seats that serve a model, full and broken ones too."""
        return [
            seat
            for seat in self._seats.values()
            if seat.replica.digest == digest
            and mode in seat.replica.modes
            and (adapter is None or adapter in seat.replica.adapters)
            and self._reaches(seat.replica)
        ]

    def beyond(self, digest: str) -> str | None:
        """A host that has an engine of the model on a Unix socket, where this gateway does not reach it."""
        hosts = (seat.replica.host for seat in self._seats.values()
                 if seat.replica.digest == digest and not self._reaches(seat.replica))  # fmt: skip
        return next(hosts, None)

    def close(self) -> None:
        """Close what is idle."""
        for seat in self._seats.values():
            seat.client.close()

    def _reaches(self, replica: Replica) -> bool:
        return replica.address.startswith("http://") or replica.host == self.host

    async def _read(self) -> None:
        try:
            self._stale = False
            self._take(await self.edge.transact(partial(placement.replicas)))
        except DatabaseUnavailable:
            pass
        finally:
            self._at = monotonic()
            self._reading = None

    def _take(self, found: Iterable[Replica]) -> None:
        known, self._seats = self._seats, {}
        for replica in found:
            seat = known.pop(replica.id, None)
            if seat is None:
                seat = Seat(replica, EngineClient(replica.address, token=replica.token))
            seat.replica = replica
            seat.others = max(0, replica.held - seat.calls)
            self._seats[replica.id] = seat
        for seat in known.values():
            seat.client.close()


def pick(seats: Iterable[Seat], *, affinity: str | None) -> Seat | None:
    """The seat for a call: the one that `affinity` points to unless it is crowded, else the emptier of two."""
    now = monotonic()
    able = [seat for seat in seats if seat.away_until <= now]
    if not able:
        return None
    if affinity is not None:
        # Rendezvous hashing: Thaler, Ravishankar 1998. A replica that goes moves its own callers alone.
        near = max(able, key=lambda seat: _weight(affinity, seat.replica.id))
        if near.load < CROWDED:
            return near
    return min(random.sample(able, min(2, len(able))), key=lambda seat: seat.load)


def _weight(affinity: str, replica: UUID) -> bytes:
    return blake2b(affinity.encode() + replica.bytes, digest_size=8).digest()
