"""Why a call is not answered.

ModelyardError
├── CallRefused      the code, field and status of whoever refused: our check of the body, or the engine
├── CallCancelled 409
├── EngineUnfit 503  no worker can serve the model; not to be tried again
├── TooManyRequests 429: EngineBusy, TooManyCalls
└── Unavailable 503: EngineNotReady, EngineLost
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from shared.contracts.jobs import JobError
from shared.errors import ModelyardError, TooManyRequests, Unavailable

_TOO_LONG: Final = "maximum context length"  # in vLLM's own words


class CallRefused(ModelyardError):
    """The request cannot be answered as it is."""

    code = "invalid_value"
    status = 400

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None, status: int = 400) -> None:
        super().__init__(message, param=param)
        # of this refusal, not of the class: the engine's codes are its own
        self.__dict__.update(code=code or type(self).code, status=status)

    @classmethod
    def of_engine(cls, status: int, told: Mapping[str, Any]) -> "CallRefused":
        """What an engine's error object says, in our form."""
        message, code, param = told.get("message"), told.get("code"), told.get("param")
        if not isinstance(code, str):  # vLLM's is the status
            code = "context_length_exceeded" if _TOO_LONG in str(message) else None
        return cls(
            message if isinstance(message, str) else "The engine refused the request.",
            code=code,
            param=param if isinstance(param, str) else None,
            status=status,
        )


class CallCancelled(ModelyardError):
    """The call was cancelled through its job."""

    code = "call_cancelled"
    status = 409


class TooManyCalls(TooManyRequests):
    """This gateway holds as many calls as it can: try again soon."""

    code = "too_many_calls"


class EngineBusy(TooManyRequests):
    """Every engine of the model is full: try again soon."""

    code = "engine_busy"


class EngineNotReady(Unavailable):
    """No engine of the model became ready in time."""

    code = "engine_not_ready"


class EngineLost(Unavailable):
    """Engines died repeatedly under this call."""

    code = "engine_lost"


class EngineUnfit(ModelyardError):
    """No worker can serve the model; the message says why."""

    code = "engine_failed"
    status = 503
    headers: ClassVar = {"x-should-retry": "false"}

    def __init__(self, error: JobError) -> None:
        super().__init__(f"{error.title}: {error.detail}" if error.detail else error.title)
        self.__dict__.update(code=error.code)
