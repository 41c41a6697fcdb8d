"""A server of OpenAI's routes that does as it is told: a third engine for tests. Standard library alone.

    python tests/support/scripted_engine.py --uds SOCKET --name MODEL [--answer "some words"] …

It answers by the first of its rules that fits, else with the words of `--answer`, else with those of the prompt, one
word a token. `GET /v1/models`, `/health`, `/metrics` (vLLM's names, with `--metrics`); `POST /v1/completions`,
`/v1/chat/completions`, streamed or whole. `POST /script` changes its ways while it runs: a JSON object with the fields
of `Script`; `--script FILE` gives it such an object from the start. `GET /script` tells its ways, and `GET /asked`
lists the bodies that it was asked to answer.

A rule is an object: `match`, a regular expression that is searched in the last user message (of a completion, in its
prompt); `about`, one for the whole conversation; then `answer`, a text that is given as it is, or `answers`, given in
turn, the last one for ever; `status` to refuse instead; `finish_reason`.
"""

import argparse
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
COMMAND = [sys.executable, str(Path(__file__).resolve()), "--uds", "{uds}", "--name", "{served_name}"]


@dataclass
class Script:
    """How it behaves. Times are seconds."""

    answer: str = ""  #: empty: the prompt's words
    word_s: float = 0.0  #: before each word
    status: int = 200  #: of every answer; another one is sent as an OpenAI error
    die_after: int = 0  #: the process kills itself after so many words of one answer; 0: never
    healthy: bool = True
    rules: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Turns:
    """How often each rule was used."""

    used: Counter[int] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, rule: int) -> int:
        """How often a rule was used before."""
        with self.lock:
            self.used[rule] += 1
            return self.used[rule] - 1


@dataclass
class Load:
    """What `/metrics` tells."""

    running: int = 0
    words: int = 0
    requests: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The server, on a Unix socket or on a loopback port."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.names: list[str] = arguments.name
        self.token: str = arguments.token
        self.with_metrics: bool = arguments.metrics
        self.with_health: bool = not arguments.no_health
        self.script, self.load = Script(answer=arguments.answer, word_s=arguments.word_s), Load()
        self.turns = Turns()
        if arguments.script:
            self.tell(json.loads(Path(arguments.script).read_bytes()))
        if arguments.uds:
            self.address_family = socket.AF_UNIX
            super().__init__(arguments.uds, Handler)
        else:
            super().__init__(("127.0.0.1", arguments.port), Handler)

    def tell(self, changes: dict[str, Any]) -> None:
        """Change its ways."""
        known = {each.name for each in fields(Script)}
        assert set(changes) <= known, changes
        vars(self.script).update(changes)
        if "rules" in changes:
            self.turns.used.clear()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        server = self.server
        if self.path == "/health" and server.with_health:
            self._send(200 if server.script.healthy else 503, {})
        elif self.path == "/script":
            self._send(200, asdict(server.script))
        elif self.path == "/v1/models":
            entries = [{"id": name, "object": "model", "max_model_len": 2048} for name in server.names]
            self._send(200, {"object": "list", "data": entries})
        elif self.path == "/asked":
            self._send(200, {"data": server.load.asked})
        elif self.path == "/metrics" and server.with_metrics:
            self._send_bytes(200, "text/plain", metrics(server.load).encode())
        else:
            self._send(404, {"error": {"message": "no such route"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        if self.path == "/script":
            self.server.tell(body)
            self._send(200, {})
        elif self.server.token and self.headers.get("authorization") != f"Bearer {self.server.token}":
            self._send(401, {"error": {"message": "a token is needed", "type": "authentication_error"}})
        elif self.server.script.status != 200:
            self._send(self.server.script.status, {"error": {"message": "as told", "type": "server_error"}})
        elif body.get("model") not in self.server.names:
            self._send(404, {"error": {"message": f"no model {body.get('model')}", "code": "model_not_found"}})
        elif self.path in {"/v1/completions", "/v1/chat/completions"}:
            self._answer(body, chat=self.path.endswith("chat/completions"))
        else:
            self._send(404, {"error": {"message": "no such route"}})

    def _answer(self, body: dict[str, Any], *, chat: bool) -> None:
        load = self.server.load
        with load.lock:
            load.running += 1
            load.requests += 1
            load.asked.append(body)
        try:
            server = self.server
            rule = rule_for(body, server.script.rules, server.turns)
            answer = Answer(body, script=server.script, load=load, chat=chat, rule=rule)
            if rule.get("status", 200) != 200:
                error = {"message": rule.get("answer") or "as told", "type": "invalid_request_error", "code": None}
                self._send(rule["status"], {"error": error})
            elif body.get("stream"):
                self._stream(answer)
            else:
                self._send(200, answer.whole())
        finally:
            with load.lock:
                load.running -= 1

    def _stream(self, answer: "Answer") -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for event in answer.events():
                data = b"data: " + event + b"\n\n"
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._send_bytes(status, "application/json", json.dumps(body).encode())

    def _send_bytes(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclass
class Answer:
    """The answer to one request."""

    body: dict[str, Any]
    script: Script
    load: Load
    chat: bool
    rule: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> list[str]:
        return last_turn(self.body).split()

    @property
    def words_due(self) -> list[str]:
        """All words of the answer, each with the space before it; those of a rule exactly as they are."""
        if "answer" in self.rule:
            return re.findall(r"\s*\S+|\s+$", self.rule["answer"])
        words = self.script.answer.split() or self.prompt
        return [word if number == 0 else f" {word}" for number, word in enumerate(words)]

    @property
    def said(self) -> list[str]:
        return self.words_due[: self.limit]

    @property
    def limit(self) -> int:
        return int(self.body.get("max_completion_tokens") or self.body.get("max_tokens") or 1024)

    @property
    def reason(self) -> str:
        told = "length" if len(self.words_due) > self.limit else "stop"
        return str(self.rule.get("finish_reason", told))

    @property
    def usage(self) -> dict[str, int]:
        prompt, said = len(self.prompt), len(self.said)
        return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}

    def words(self) -> Any:
        """The words, each at its time; the process may die before one of them."""
        for number, word in enumerate(self.said):
            if self.script.die_after and number >= self.script.die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait(self.script.word_s)
            with self.load.lock:
                self.load.words += 1
            yield word

    def whole(self) -> dict[str, Any]:
        text = "".join(self.words())
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return self._body([{"index": 0, **said, "finish_reason": self.reason}]) | {"usage": self.usage}

    def events(self) -> Any:
        """The payload of each server-sent event."""
        for word in self.words():
            said: dict[str, Any] = {"delta": {"content": word}} if self.chat else {"text": word}
            yield json.dumps(self._body([{"index": 0, **said, "finish_reason": None}], chunk=True)).encode()
        last: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        yield json.dumps(self._body([{"index": 0, **last, "finish_reason": self.reason}], chunk=True)).encode()
        if (self.body.get("stream_options") or {}).get("include_usage"):
            yield json.dumps(self._body([], chunk=True) | {"usage": self.usage}).encode()
        yield b"[DONE]"

    def _body(self, choices: list[dict[str, Any]], *, chunk: bool = False) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        return {"id": "scripted-1", "object": kind, "created": 1, "model": self.body["model"], "choices": choices}


def last_turn(body: dict[str, Any]) -> str:
    """What the caller said last."""
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


def rule_for(body: dict[str, Any], rules: list[dict[str, Any]], turns: Turns) -> dict[str, Any]:
    """The first rule that fits, with the `answer` that is due; an empty one when none fits."""
    last = last_turn(body)
    whole = "\n".join(str(turn["content"]) for turn in body["messages"]) if "messages" in body else last
    for number, rule in enumerate(rules):
        if re.search(rule.get("match", ""), last) and re.search(rule.get("about", ""), whole):
            if "answers" not in rule:
                return rule
            answers = rule["answers"]
            return rule | {"answer": answers[min(turns.next(number), len(answers) - 1)]}
    return {}


def metrics(load: Load) -> str:
    """As vLLM tells them."""
    label = '{engine="0",model_name="scripted"}'
    return (
        "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
        f"vllm:num_requests_running{label} {load.running}.0\n"
        f"vllm:num_requests_waiting{label} 0.0\n"
        f"vllm:kv_cache_usage_perc{label} 0.25\n"
        f"vllm:generation_tokens_total{label} {load.words}.0\n"
        'vllm:cache_config_info{cache_dtype="auto",num_gpu_blocks="400"} 1.0\n'
    )


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", action="append", required=True)
    parser.add_argument("--token", default="")
    parser.add_argument("--answer", default="")
    parser.add_argument("--script", default="", help="JSON file with fields of Script")
    parser.add_argument("--word-s", type=float, default=0.0)
    parser.add_argument("--start-s", type=float, default=0.0, help="before it listens")
    parser.add_argument("--children", type=int, default=0, help="processes in sessions of their own, deaf to SIGTERM")
    parser.add_argument("--stubborn", action="store_true", help="deaf to SIGTERM itself")
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--no-health", action="store_true")
    arguments = parser.parse_args()
    if arguments.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(arguments.children):
        subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
    threading.Event().wait(arguments.start_s)
    Server(arguments).serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
