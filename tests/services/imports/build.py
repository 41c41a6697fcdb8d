"""Folders that are models or adapters, or nearly so; and a Hub on this host."""

import hashlib
import json
import shutil
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from pathlib import Path
from typing import Any

TINY = Path(__file__).parents[3] / "infra" / "models" / "yard-tiny"
GATE_S = 30.0
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tiny(folder: Path, **config: Any) -> Path:
    """A copy of the packaged model, with another configuration where one is given."""
    shutil.copytree(TINY, folder)
    if config:
        change(folder / "config.json", **config)
    return folder


def change(file: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def safetensors(tensors: Mapping[str, tuple[int, ...]], dtype: str = "F32", width: int = 4) -> bytes:
    """A file of zeros."""
    header, position = {}, 0
    for name, shape in tensors.items():
        end = position + prod(shape) * width
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(position)


def adapter(
    folder: Path, *, rank: int = 4, out: int = 0, modules: tuple[str, ...] = ("q_proj",), **config: Any
) -> Path:
    """A LoRA adapter of the packaged model; `out` rows more than its base has make it misfit."""
    shape = json.loads((TINY / "config.json").read_text())
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    head = shape.get("head_dim") or hidden // heads
    folder.mkdir()
    tensors: dict[str, tuple[int, ...]] = {}
    for layer in range(shape["num_hidden_layers"]):
        for module in modules:
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = (rank, hidden)
            tensors[f"{name}.lora_B.weight"] = (heads * head + out, rank)
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    told = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": list(modules), "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(told | config))
    return folder


@dataclass
class Hub:
    """Where it listens, what it has, what it was asked, and how it misbehaves."""

    url: str
    folder: Path
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    status: int = 200  #: of every answer
    breaks: int = 0  #: transfers of weights that break off in the middle
    lies: bool = False  #: sends other bytes than it promised
    gate: threading.Event = field(default_factory=threading.Event)  #: weights stop in the middle until it is set

    def __post_init__(self) -> None:
        self.gate.set()

    def listing(self) -> dict[str, Any]:
        rows = []
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                row: dict[str, Any] = {
                    "rfilename": path.relative_to(self.folder).as_posix(),
                    "size": path.stat().st_size,
                }
                if path.suffix == ".safetensors":
                    row["lfs"] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": row["size"]}
                rows.append(row)
        return {"id": "org/model", "sha": COMMIT, "siblings": rows}


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:  # noqa: C901 - a server is its handlers
    """Plays the Hugging Face Hub with one repository, `org/model` at COMMIT; weights come by a redirect."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            if running.status != 200:
                self._send(running.status, b"{}")
            else:
                self._answer()

        def _answer(self) -> None:
            if self.path == f"/api/models/org/model/revision/{COMMIT}?blobs=true":
                self._send(200, json.dumps(running.listing()).encode())
            elif self.path.startswith(f"/org/model/resolve/{COMMIT}/"):
                name = self.path.removeprefix(f"/org/model/resolve/{COMMIT}/")
                self._redirect(name) if name.endswith(".safetensors") else self._file(name)
            elif self.path.startswith("/cdn/"):
                self._file(self.path.removeprefix("/cdn/"))
            else:
                self._send(404, b"{}")

        def _redirect(self, name: str) -> None:
            self.send_response(302)
            self.send_header("location", f"http://localhost:{server.server_port}/cdn/{name}")
            self.send_header("content-length", "0")
            self.end_headers()

        def _file(self, name: str) -> None:
            data = (running.folder / name).read_bytes()
            start = int(self.headers.get("range", "bytes=0-")[6:-1])
            data = data[start:] if not running.lies else b"x" * len(data[start:])
            if running.breaks and name.endswith(".safetensors"):
                running.breaks -= 1
                self._send(206 if start else 200, data, cut=len(data) // 2)
            else:
                self._send(206 if start else 200, data)

        def _send(self, status: int, data: bytes, *, cut: int | None = None) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            half = len(data) // 2 if self.path.startswith("/cdn/") else len(data)
            self.wfile.write(data[:cut][:half])
            if half < len(data):
                running.gate.wait(GATE_S)
                self.wfile.write(data[:cut][half:])
            self.close_connection = cut is not None

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that goes away is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    running = Hub(f"http://127.0.0.1:{server.server_port}", folder)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield running
    finally:
        running.gate.set()
        server.shutdown()
        server.server_close()
