"""An engine process of a test, and what can be asked of it."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared.contracts.engine import EngineConfig, EngineStats
from tests.support.polling import wait_until


@dataclass(frozen=True)
class RunningEngine:
    """One engine process and a client on its socket."""

    config: EngineConfig
    client: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """The engine's own process, whoever started it. 0 before its first log line."""
        first = self.log.read_text().partition("\n")[0]
        return int(json.loads(first)["pid"]) if first else 0

    def wait_ready(self) -> "RunningEngine":
        wait_until(self.is_ready, timeout=110, every=0.05, what="the engine is ready")
        return self

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.config.uds.exists() and self.client.get("/health").status_code == 200

    def stats(self) -> EngineStats:
        return EngineStats.model_validate_json(self.client.get("/stats").raise_for_status().content)

    def complete(self, **body: Any) -> dict[str, Any]:
        """The one choice of `/v1/completions`, with its usage."""
        answer = self.post("/v1/completions", **body).raise_for_status().json()
        choice: dict[str, Any] = answer["choices"][0]
        return choice | {"usage": answer["usage"]}

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json={"model": "yard-tiny"} | body)

    def post_json(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.client.post(path, json=body)

    def stream(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """Every chunk of a streamed answer; the last line must be [DONE]."""
        asked = {"model": "yard-tiny", "stream": True} | body
        with self.client.stream("POST", path, json=asked) as response:
            response.raise_for_status()
            lines = [line for line in response.iter_lines() if line]
        assert lines.pop() == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]
