"""Bodies of `/v1/completions` and `/v1/chat/completions`: what is honoured, what is harmless, what is refused."""

import json
from itertools import takewhile
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from workers.engine.errors import InvalidRequest, UnknownParameter, UnsupportedParameter

#: Accepted and without effect: they concern bookkeeping, not the text.
INERT = {"user", "metadata", "service_tier", "prompt_cache_key", "safety_identifier"}

#: OpenAI's and its servers' parameters that this engine cannot honour, each with the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (False, True),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}

Finite = Field(allow_inf_nan=False)
Stop = Annotated[str, Field(min_length=1)]
Token = NonNegativeInt


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class StreamOptions(_Body):
    """`stream_options`; obfuscation is accepted and never done."""

    include_usage: bool = False
    include_obfuscation: bool = False


class GenerateBody(_Body):
    """What both routes have in common. A null is the same as nothing."""

    model: str
    max_tokens: PositiveInt | None = None
    temperature: Annotated[float, Finite, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Finite, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] = 0  #: 0 and −1 keep every token
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] = Field(default_factory=list)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionBody(GenerateBody):
    """`/v1/completions`: one prompt or several, as text or as tokens."""

    prompt: str | list[str] | list[Token] | list[list[Token]]

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry a sequence."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [token for token in self.prompt if isinstance(token, int)]
        return [tokens] if tokens else [prompt for prompt in self.prompt if not isinstance(prompt, int)]


class TextPart(_Body):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class Message(_Body):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(GenerateBody):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: PositiveInt | None = None

    @property
    def limit(self) -> int | None:
        """Tokens to generate at most, under either of its names."""
        return self.max_completion_tokens or self.max_tokens


Body = TypeVar("Body", bound=GenerateBody)
Parsed = TypeVar("Parsed", bound=BaseModel)


def parse_generation(raw: bytes, kind: type[Body]) -> Body:
    """A request for text. Raises InvalidRequest (or a child) that names the first bad field."""
    asked = {name: value for name, value in _object(raw).items() if value is not None and name not in INERT}
    for name in sorted(asked.keys() & UNSUPPORTED.keys()):
        if not any(_same(asked[name], neutral) for neutral in UNSUPPORTED[name]):
            raise UnsupportedParameter(f"This engine cannot honour `{name}`.", param=name)
        del asked[name]
    return _validated(asked, kind)


def parse(raw: bytes, kind: type[Parsed]) -> Parsed:
    """Any other body. Raises InvalidRequest (or a child) that names the first bad field."""
    return _validated(_object(raw), kind)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {type(error).__name__}.") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return fields


def _validated(fields: dict[str, Any], kind: type[Parsed]) -> Parsed:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _first_problem(error) from None


def _same(value: object, neutral: object) -> bool:
    return value == neutral and isinstance(value, bool) is isinstance(neutral, bool)


def _first_problem(error: ValidationError) -> InvalidRequest:
    """The first complaint, without the value: a prompt must not travel into logs."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    parts = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        path = ".".join(parts)
        return UnknownParameter(f"Unknown parameter: `{path}`.", param=path)
    # Behind a field of several types pydantic names the one it tried: `str`, `constrained-str`, `list[str]`.
    field = list(takewhile(lambda part: part != "str" and not {"-", "["}.intersection(part), parts))
    path = ".".join(field)
    told = problem["msg"] if field == parts else "Input has none of the types that are accepted here"
    return InvalidRequest(f"`{path}`: {told}.", param=path)
