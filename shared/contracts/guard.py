"""The guard of a foreign server: the one JSON file it is started with.

vLLM, and whatever else serves OpenAI's HTTP, knows nothing of workers, lifelines and device locks. The guard does:
`python -m workers.engine.guard GUARD.json` starts the server as its child, ends with it, and serves on `control` what
`shared.contracts.engine` asks of an engine: `/health`, `/stats`, `/lifeline`, `/detach`. Requests to the model never
pass through it: they go to the server's own socket `uds`.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from shared.contracts.engine import UDS_PATH_BYTES
from shared.contracts.serving import Mode


class GuardConfig(BaseModel):
    """A server to start, how to ask after it, and for whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine_id: str
    control: Path  #: the guard's socket, mode 0600
    uds: Path  #: the server's socket, in the same folder
    argv: Annotated[tuple[str, ...], Field(min_length=1)]  #: the server's command line
    env: Annotated[dict[str, str | None], Field(repr=False)] = {}  #: on top of the guard's own; null removes one
    cwd: Path
    port: PositiveInt | None = None  #: loopback port of a server that knows no Unix sockets; the guard serves `uds`
    listen: str | None = None  #: `address:port` on which the guard serves `uds` as well
    models: Annotated[tuple[str, ...], Field(min_length=1)]  #: names served, the canonical one first
    token: Annotated[str | None, Field(repr=False)] = (
        None  #: bearer token of the server, and of every call but `/health`
    )
    health: str = "/health"  #: answers 200 when the server admits requests
    metrics: str = "/metrics"  #: Prometheus text; figures that do not go by vLLM's names count as 0
    modes: tuple[Mode, ...] = (Mode.GENERATE,)
    device: Literal["cpu", "cuda"] = "cpu"
    max_in_flight: PositiveInt = 64  #: sequences it admits, for the figures
    parent_pid: PositiveInt | None = None  #: die with this process; null when nobody watches
    detach_grace_s: PositiveFloat = 60  #: how long `POST /detach` without a figure lets the engine live alone
    drain_s: PositiveFloat = 5  #: from SIGTERM until what still runs is aborted
    lock_fds: tuple[NonNegativeInt, ...] = ()  #: inherited device locks; the server holds them too

    @model_validator(mode="after")
    def _socket_paths_fit(self) -> Self:
        for path in (self.control, self.uds):
            if len(bytes(path)) > UDS_PATH_BYTES:
                raise ValueError(f"a socket's path is longer than {UDS_PATH_BYTES} bytes: {path}")
        return self
