"""OpenAI's request bodies, as every engine and the gateway understand them.

One place decides what is a parameter, what is harmless and what is refused. A null is the same as nothing.
Extras that engines share are accepted beside OpenAI's own: `top_k`, `min_p`, `min_tokens`, `repetition_penalty`,
`ignore_eos`, `stop_token_ids`. Source of the names: openai-openapi 2.3.0 and vLLM 0.32's protocol modules.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from shared.contracts.bodies import INERT, UNSUPPORTED, BadRequest, Body, Inconsistent, first_problem, parse, read

# Whoever reads a body needs these as well.
__all__ = ["INERT", "UNSUPPORTED", "BadRequest", "Body", "first_problem", "parse", "read"]

STOPS = 16
STOP_CHARACTERS = 256
CHOICES = 128  #: most of `n`
BIASES = 1024
TOP_LOGPROBS = 20
TOOLS = 128
SCHEMA_BYTES = 64 * 1024
EMBEDDING_INPUTS = 2048

Finite = Field(allow_inf_nan=False)
Stop = Annotated[str, Field(min_length=1, max_length=STOP_CHARACTERS)]
Token = NonNegativeInt


class StreamOptions(Body):
    """`stream_options`; obfuscation is accepted and never done."""

    include_usage: bool = False
    include_obfuscation: bool = False


class JsonSchema(Body):
    """The schema of `response_format: {type: json_schema}`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _small(self) -> Self:
        try:
            size = len(json.dumps(self.schema_))
        except RecursionError:
            raise Inconsistent("schema", "The schema is nested too deeply") from None
        if size > SCHEMA_BYTES:
            raise Inconsistent("schema", f"The schema is larger than {SCHEMA_BYTES} bytes")
        return self


class ResponseFormat(Body):
    """What the answer must parse as."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise Inconsistent("json_schema", "json_schema goes with type json_schema, and with no other")
        return self


def _text_keys(biases: Any) -> Any:
    """Token ids are text in JSON's keys."""
    if not isinstance(biases, Mapping):
        return biases
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() for key in biases):
        raise Inconsistent("", "Keys should be token ids")
    return {int(key): value for key, value in biases.items()}


class GenerateBody(Body):
    """What both routes have in common."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: PositiveInt | None = None
    min_tokens: NonNegativeInt = 0
    temperature: Annotated[float, Finite, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Finite, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] = 0  #: 0 and −1 keep every token
    min_p: Annotated[float, Finite, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Finite, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Finite, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Finite, Field(gt=0, le=10)] = 1.0
    logit_bias: Annotated[
        dict[int, Annotated[float, Finite, Field(ge=-100, le=100)]],
        BeforeValidator(_text_keys),
        Field(max_length=BIASES),
    ] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES)] = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS)] = Field(default_factory=list)
    stop_token_ids: Annotated[list[Token], Field(max_length=STOPS)] = Field(default_factory=list)
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def limit(self) -> int | None:
        """Tokens to generate at most; null: what the route does by default."""
        return self.max_tokens

    @property
    def top_logprobs_wanted(self) -> int | None:
        """Alternatives whose log probabilities are shown for each token; None: no log probabilities at all."""
        raise NotImplementedError

    @property
    def deterministic(self) -> bool:
        """Whether the same body gives the same answer every time."""
        return self.temperature == 0 or self.seed is not None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise Inconsistent("stream_options", "stream_options goes with stream: true")
        return self


class CompletionBody(GenerateBody):
    """`/v1/completions`: one prompt or several, as text or as tokens."""

    prompt: str | list[str] | list[Token] | list[list[Token]]
    logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry a sequence."""
        return prompts_of(self.prompt)

    @property
    def top_logprobs_wanted(self) -> int | None:
        return self.logprobs


class TextPart(Body):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class FunctionCall(Body):
    """What the assistant wants called."""

    name: str
    arguments: str


class ToolCall(Body):
    """One call in an assistant's turn."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)

    @model_validator(mode="after")
    def _parts(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise Inconsistent("content", "Field required")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise Inconsistent("tool_call_id", "tool_call_id goes with role tool, and with no other")
        return self


class Function(Body):
    """A function that the model may ask for."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """An entry of `tools`."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The function of a named tool choice."""

    name: str


class NamedTool(Body):
    """`tool_choice` that names a function."""

    type: Literal["function"]
    function: NamedFunction


class ChatBody(GenerateBody):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: PositiveInt | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=TOOLS)] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None

    @property
    def limit(self) -> int | None:
        """Tokens to generate at most, under either of its names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def top_logprobs_wanted(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise Inconsistent("top_logprobs", "top_logprobs goes with logprobs: true")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise Inconsistent("tool_choice", "tool_choice goes with tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in {
            tool.function.name for tool in self.tools
        }:
            raise Inconsistent("tool_choice", "tool_choice names a function that is not among tools")
        return self


class EmbeddingBody(Body):
    """`/v1/embeddings`."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: str | list[str] | list[Token] | list[list[Token]]
    dimensions: PositiveInt | None = None
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def inputs(self) -> list[str | list[int]]:
        """One entry a vector."""
        return prompts_of(self.input)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not 1 <= len(self.inputs) <= EMBEDDING_INPUTS or not all(self.inputs):
            raise Inconsistent("input", f"input holds 1 to {EMBEDDING_INPUTS} texts, none of them empty")
        return self


AnyBody = ChatBody | CompletionBody | EmbeddingBody


def prompts_of(given: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> list[str | list[int]]:
    """OpenAI's four spellings of one or several prompts, as a list of prompts."""
    if isinstance(given, str):
        return [given]
    tokens = [token for token in given if isinstance(token, int)]
    if tokens:
        return [tokens]
    return [prompt if isinstance(prompt, str) else list(prompt) for prompt in given if not isinstance(prompt, int)]
