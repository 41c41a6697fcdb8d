"""What the calls of one gateway process share: replicas, placing, rows, and who can be stopped."""

from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from gateway.calls.ledger import Ledger
from gateway.calls.placing import Placer
from gateway.calls.replicas import Replicas
from gateway.edge import Edge
from services.inference import service as inference
from services.inference.models import ModelFacts
from shared.clock import monotonic

MODEL_FOR_S: Final = 1.0  #: how long a name stands for the same version in this process
MODELS: Final = 4096  #: names remembered; then all are forgotten
MOST: Final = 2048  #: calls of one process, waiting ones included


class Stoppable(Protocol):
    """A call that runs."""

    def cancel(self) -> None:
        """Somebody asked for it through the job."""


@dataclass(frozen=True)
class _Known:
    until: float
    model: ModelFacts


class Calls:
    """One a process. Used on its loop."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.replicas = Replicas(edge)
        self.placer = Placer(edge, self.replicas)
        self.ledger = Ledger(edge, cancel=self._cancel)
        self.running: dict[UUID, Stoppable] = {}
        self._models: dict[tuple[UUID, str], _Known] = {}

    def start(self) -> None:
        """Begin to listen for engines and cancels, and to write rows."""
        self.edge.watch.hear("engines", self.replicas.heard)
        self.edge.watch.hear("controls", self._asked)
        self.ledger.start()

    async def stop(self) -> None:
        """Write what is left and close the connections to engines."""
        await self.ledger.stop()
        self.replicas.close()

    async def model(self, tenant_id: UUID, name: str) -> ModelFacts:
        """What a name stands for.

        Raises:
            UnknownModel: nothing (`param="model"`).
        """
        known, now = self._models.get((tenant_id, name)), monotonic()
        if known is not None and known.until > now:
            return known.model
        model = await self.edge.transact(lambda session: inference.model_facts(session, tenant_id, name, param="model"))
        if len(self._models) >= MODELS:
            self._models.clear()
        self._models[tenant_id, name] = _Known(now + MODEL_FOR_S, model)
        return model

    def _asked(self, payload: str) -> None:
        """A job is to be cancelled or paused; what is missed here, the next heartbeat sees."""
        if not payload or UUID(payload) in self.running:
            self.ledger.look()

    def _cancel(self, job: UUID) -> None:
        call = self.running.get(job)
        if call is not None:
            call.cancel()
