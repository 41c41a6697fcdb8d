"""What can be asked of a server that only knows OpenAI's routes. Blocking: call it from a thread."""

import http.client
import json
import socket
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from shared.contracts.guard import GuardConfig
from workers.engine.figures import NOTHING, Figures
from workers.engine.guard.figures import read

_TIMEOUT_S = 2.0


class Silent(Exception):
    """The server does not answer, or answers nonsense."""


@dataclass(frozen=True)
class Served:
    """What `/v1/models` lists."""

    names: tuple[str, ...]
    adapters: tuple[str, ...]  #: entries that have a parent, as vLLM marks them
    context_length: int  #: 0 when it does not say


class Foreign:
    """The guarded server."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._headers = {"Authorization": f"Bearer {config.token}"} if config.token else {}

    def admits(self) -> bool:
        """Whether it says that it serves requests. A server without a health route is asked for its models."""
        try:
            status = self._get(self._config.health)[0]
            return self.serves() if status == HTTPStatus.NOT_FOUND else status == HTTPStatus.OK
        except Silent:
            return False

    def serves(self) -> bool:
        """Whether it lists every name that it should. Raises Silent."""
        return set(self._config.models) <= set(self.served().names)

    def served(self) -> Served:
        """Its models. Raises Silent."""
        status, body = self._get("/v1/models")
        try:
            entries: list[dict[str, Any]] = json.loads(body)["data"] if status == HTTPStatus.OK else []
            lengths = [entry.get("max_model_len") or entry.get("context_length") or 0 for entry in entries]
            return Served(
                names=tuple(str(entry["id"]) for entry in entries),
                adapters=tuple(str(entry["id"]) for entry in entries if entry.get("parent")),
                context_length=int(max(lengths, default=0)),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Silent("/v1/models is not OpenAI's list") from error

    def figures(self) -> Figures:
        """Its load; nothing when it has no metrics. Raises Silent."""
        status, body = self._get(self._config.metrics)
        return read(body.decode(errors="replace")) if status == HTTPStatus.OK else NOTHING

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = _UnixConnection(str(self._config.uds))
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Silent(str(error)) from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
