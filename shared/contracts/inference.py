"""The `inference` kind: prompts or chats in, `results.jsonl` out."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.caching import CacheWish
from shared.contracts.jobs import Contract, JobError, Name, Text
from shared.contracts.openai import BIASES, ResponseFormat

INLINE_LINES = 50_000
STOPS = 4
RESULTS_INLINE = 100  #: lines of a result that `GET /v1/jobs/{id}` shows


class Message(Contract):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Text


TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]  #: JSON's keys are text

#: Fields of a spec that every line's request carries when they are set, under the same names.
FORWARDED = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "ignore_eos", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "logit_bias", "response_format",
)  # fmt: skip


class InferenceSpec(Contract):
    """Generate text for each line. Exactly one of `prompts`, `messages`, `input_file`."""

    model: Name
    prompts: Annotated[list[Text], Field(min_length=1, max_length=INLINE_LINES)] | None = None
    messages: (
        Annotated[list[Annotated[list[Message], Field(min_length=1)]], Field(min_length=1, max_length=INLINE_LINES)]
        | None
    ) = Field(None, description="a list of chats, each a list of messages")
    input_file: Text | None = Field(
        None, description='id of an uploaded JSONL file; lines `{"prompt": …}` or `{"messages": […]}`'
    )
    max_tokens: int = Field(128, ge=1, le=131_072, strict=True)
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=100_000, strict=True, description="0 is off")
    seed: int | None = Field(None, ge=0, lt=2**63, strict=True)
    stop: list[Annotated[Text, Field(min_length=1, max_length=256)]] = Field(default_factory=list, max_length=STOPS)
    ignore_eos: bool = False
    min_p: float | None = Field(None, ge=0, le=1, description="share of the best token's probability; null is off")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="1 is off")
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, max_length=BIASES, description="token id → what is added to its logit"
    )
    response_format: ResponseFormat | None = Field(None, description="text, json_object or json_schema, as OpenAI's")
    cache: CacheWish | None = Field(None, description="as in a chat: `off` asks the engine for every line")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("prompts", "messages", "input_file") if getattr(self, name) is not None]
        if len(given) != 1:
            msg = f"give exactly one of prompts, messages, input_file (got {', '.join(given) or 'none'})"
            raise ValueError(msg)
        return self


class LineInput(Contract):
    """One line as it is stored in `job_items.input`: a prompt or a chat."""

    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            msg = "a line has either prompt or messages"
            raise ValueError(msg)
        return self


class LineUsage(Contract):
    """Tokens of one line."""

    prompt_tokens: int
    completion_tokens: int


class LineOutput(Contract):
    """What the engine answered for one line."""

    text: str
    finish_reason: str
    usage: LineUsage


class LineResult(Contract):
    """One line of `results.jsonl`, in input order."""

    index: int
    output: LineOutput | None = None
    error: JobError | None = None
