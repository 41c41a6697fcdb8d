"""Figures of interactive calls, for Prometheus. What each means stands in infra/docs/metrics.md.

`model` is the first characters of a digest, because names belong to tenants; `modelyard_model_info` gives every
tenant its own. At most `MODELS` of them are told apart in one process.
"""

import threading
from dataclasses import dataclass
from typing import Final

from shared import telemetry

MODELS: Final = 100  #: distinct values of the label `model`; all further ones are `other`
DIGEST: Final = 12  #: characters of a digest
OTHER: Final = "other"

_LABELS = ("model", "gpu_class")
CALLS = telemetry.counter("calls", "Calls that an engine was asked for and that have ended.", "endpoint", "outcome")
CALL_SECONDS = telemetry.histogram("call_seconds", "Duration of interactive calls.", "endpoint", *_LABELS)
WAIT = telemetry.histogram("call_wait_seconds", "Time until a replica was found for a call.", *_LABELS)
FIRST_TOKEN = telemetry.histogram("time_to_first_token_seconds", "From the request to its first token.", *_LABELS)
INTER_TOKEN = telemetry.histogram("inter_token_seconds", "Mean gap between the tokens of one stream.", *_LABELS)
TOKENS = telemetry.counter("call_tokens", "Tokens of interactive calls.", *_LABELS, "direction")
CACHE_CALLS = telemetry.counter("cache_calls", "What the response cache did for interactive calls.", "result")

DATABASE_UP = telemetry.gauge("database_up", "Whether the database answered when these figures were read.")


@dataclass(frozen=True)
class CallSeen:
    """An interactive call that has ended. Seconds count from the arrival of the request."""

    endpoint: str  #: chat, completions or embeddings
    outcome: str  #: answered, refused, failed or gone (the client hung up)
    seconds: float
    digest: str | None = None  #: of the model or adapter that was meant; None: it was never found
    gpu_class: str = "none"  #: of the replica; `none`: it was not placed
    wait_s: float | None = None  #: until it was placed
    first_token_s: float | None = None  #: streams alone
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Labels:
    """At most `most` distinct values; the first ones keep their own. Thread-safe."""

    def __init__(self, most: int = MODELS) -> None:
        self._most = most
        self._known: set[str] = set()
        self._turn = threading.Lock()

    def of(self, value: str) -> str:
        """The value, or `other` when there are too many."""
        if value in self._known:
            return value
        with self._turn:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(value)
            return value


_models = Labels()


def model_label(digest: str | None) -> str:
    """How a model is named in figures."""
    return _models.of(digest[:DIGEST]) if digest else "none"


def observe(call: CallSeen) -> None:
    """Count a call that has ended (20 µs)."""
    labels = (model_label(call.digest), call.gpu_class)
    CALLS.labels(call.endpoint, call.outcome).inc()
    CALL_SECONDS.labels(call.endpoint, *labels).observe(call.seconds)
    if call.wait_s is not None:
        WAIT.labels(*labels).observe(call.wait_s)
    if call.first_token_s is not None:
        FIRST_TOKEN.labels(*labels).observe(call.first_token_s)
        if call.completion_tokens > 1:
            INTER_TOKEN.labels(*labels).observe((call.seconds - call.first_token_s) / (call.completion_tokens - 1))
    TOKENS.labels(*labels, "prompt").inc(call.prompt_tokens)
    TOKENS.labels(*labels, "completion").inc(call.completion_tokens)
