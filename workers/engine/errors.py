"""What an engine answers when it does not generate.

EngineError
├── InvalidRequest 400
│   ├── InvalidJson
│   ├── UnknownParameter
│   ├── UnsupportedParameter
│   ├── ContextLengthExceeded
│   └── InvalidAdapter
├── Unauthorized 401
├── ModelNotFound 404
│   └── AdapterNotFound
├── Overloaded 429
├── GenerationFailed 500
└── NotReady 503
    └── Draining
"""

from typing import ClassVar

from shared.contracts.openai import BadRequest


class EngineError(Exception):
    """The engine could not answer."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retry_after_ms: ClassVar[int | None] = None

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        super().__init__(message or self.__doc__)
        self.param = param

    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's error object."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """`retry-after-ms` where trying again soon makes sense."""
        return {} if self.retry_after_ms is None else {"retry-after-ms": str(self.retry_after_ms)}


class InvalidRequest(EngineError):
    """The request is not valid."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class InvalidJson(InvalidRequest):
    """The body is not a JSON object."""

    code = "invalid_json"


class UnknownParameter(InvalidRequest):
    """No such parameter."""

    code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    """This engine cannot honour the parameter."""

    code = "unsupported_parameter"


def refused(error: BadRequest) -> InvalidRequest:
    """A body's fault as the engine's error."""
    kinds = {kind.code: kind for kind in (InvalidJson, UnknownParameter, UnsupportedParameter)}
    return kinds.get(error.code, InvalidRequest)(str(error), param=error.param)


class ContextLengthExceeded(InvalidRequest):
    """Prompt and output do not fit the model's context."""

    code = "context_length_exceeded"


class InvalidAdapter(InvalidRequest):
    """The adapter cannot be served beside this model."""

    code = "invalid_adapter"


class Unauthorized(EngineError):
    """The bearer token is missing or wrong."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class ModelNotFound(EngineError):
    """This engine serves no such model."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class AdapterNotFound(ModelNotFound):
    """There is no such adapter."""

    code = "adapter_not_found"


class Overloaded(EngineError):
    """As many sequences as the engine admits are in flight."""

    status = 429
    type = "rate_limit_error"
    code = "engine_overloaded"
    retry_after_ms = 100


class GenerationFailed(EngineError):
    """Generation failed."""

    code = "generation_failed"


class NotReady(EngineError):
    """The model is still loading."""

    status = 503
    code = "engine_starting"
    retry_after_ms = 500


class Draining(NotReady):
    """The engine is stopping."""

    code = "engine_draining"
