"""From a request's body to what is generated: prompts, wishes, and the form of the answer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from shared.contracts.openai import ChatBody, CompletionBody, GenerateBody
from workers.engine import grammar, native
from workers.engine.answers import Answer, ChatAnswer, CompletionAnswer
from workers.engine.errors import InvalidRequest, UnsupportedParameter
from workers.engine.flight import Flight, Wishes
from workers.engine.generation import Generator
from workers.engine.model import Model
from workers.engine.state import Engine
from workers.engine.templates import Renderer, context_of, template_of
from workers.engine.tools import Toolbox, taught_by, toolbox

T = TypeVar("T")

_COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions; a chat without a figure may fill the context
_LONG = 16 * 1024  # characters or tokens: some 5 ms of tokenizing, which others need not wait for


@dataclass(frozen=True, slots=True)
class Call:
    """A request that is understood, not admitted yet."""

    generator: Generator
    prompts: list[list[int]]
    wishes: Wishes
    answer: Answer
    param: str  #: what holds the prompt

    def admit(self) -> Flight:
        """Start generating. Raises what `Generator.admit` does."""
        return self.generator.admit(self.prompts, self.wishes, param=self.param)


async def of_completion(engine: Engine, body: CompletionBody) -> Call:
    """What `/v1/completions` asks for. Raises EngineError."""
    generator = _generator(engine, body)
    model = generator.model
    size = sum(len(prompt) for prompt in body.prompts)
    prompts = await _off_loop(lambda: [model.tokenizer.encode(prompt) for prompt in body.prompts], size=size)
    wishes = await _guided(model, _wishes(model, body, body.limit or _COMPLETION_TOKENS), _schema_of(body))
    spell = await _speller(model) if body.top_logprobs_wanted is not None else None
    return Call(generator, prompts, wishes, CompletionAnswer(body.model, spell=spell), "prompt")


async def of_chat(engine: Engine, body: ChatBody, renderer: Renderer) -> Call:
    """What `/v1/chat/completions` asks for. Raises EngineError."""
    generator = _generator(engine, body)
    model, backend = generator.model, generator.model.tokenizer.backend
    box = toolbox(body)
    template = template_of(backend, with_tools=bool(box.tools))
    if box.tools and box.schema is None:
        box = replace(box, format=taught_by(template))
    wishes = await _guided(model, _wishes(model, body, body.limit), _schema_of(body, box))
    text = await renderer.render(template, context_of(backend, template, body.messages, box.tools))
    # The template has written the special tokens.
    prompt = await _off_loop(lambda: list(backend.encode(text, add_special_tokens=False)), size=len(text))
    if not prompt:
        raise InvalidRequest("The chat template makes no tokens of this chat.", param="messages")
    spell = await _speller(model) if body.top_logprobs_wanted is not None else None
    return Call(generator, [prompt], wishes, ChatAnswer(body.model, spell=spell, box=box), "messages")


def _generator(engine: Engine, body: GenerateBody) -> Generator:
    generator = engine.generator(body.model)
    if engine.config.sampling == "fast":
        native.refuse_what_fast_cannot(body)
    return generator


def _wishes(model: Model, body: GenerateBody, max_tokens: int | None) -> Wishes:
    vocabulary = model.tokenizer.vocabulary
    for param, tokens in (("logit_bias", body.logit_bias), ("stop_token_ids", body.stop_token_ids)):
        if tokens and max(tokens) >= vocabulary:
            raise InvalidRequest(f"A token is not below the vocabulary's {vocabulary}.", param=param)
    return Wishes(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        seed=body.seed,
        stops=body.stops,
        ignore_eos=body.ignore_eos,
        stream=body.stream,
        n=body.n,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        bias=tuple(body.logit_bias.items()),
        min_tokens=body.min_tokens,
        stop_tokens=tuple(body.stop_token_ids),
        logprobs=body.top_logprobs_wanted,
    )


def _schema_of(body: GenerateBody, box: Toolbox | None = None) -> tuple[str, dict[str, Any]] | None:
    """What the answer must follow, and the parameter that says so."""
    form = body.response_format
    asked: tuple[str, dict[str, Any]] | None = None
    if form is not None and form.json_schema is not None:
        asked = ("response_format.json_schema.schema", form.json_schema.schema_)
    elif form is not None and form.type == "json_object":
        asked = ("response_format", grammar.JSON_OBJECT)
    if box is not None and box.tools and asked is not None:
        raise UnsupportedParameter("JSON is for answers without tools (tool_choice: none).", param="response_format")
    return ("tools", box.schema) if box is not None and box.schema is not None else asked


async def _guided(model: Model, wishes: Wishes, asked: tuple[str, dict[str, Any]] | None) -> Wishes:
    """The wishes with their grammar, which is compiled here: neither the loop nor a batch waits for it."""
    if asked is None:
        return wishes
    param, schema = asked
    if not model.eos:
        raise UnsupportedParameter("The model has no token that ends an answer.", param=param)
    for name, wanted in (("ignore_eos", wishes.ignore_eos), ("min_tokens", wishes.min_tokens)):
        if wanted:
            raise UnsupportedParameter(f"`{name}` does not go with JSON, which knows its own end.", param=name)
    text = grammar.of_schema(schema)
    try:
        await asyncio.to_thread(model.grammars.compile, text)
    except grammar.GrammarRefused as error:
        raise InvalidRequest(f"The schema cannot be followed: {error}.", param=param) from None
    return replace(wishes, grammar=text)


async def _speller(model: Model) -> Callable[[int], bytes]:
    """How tokens are spelled out; the first time, a second of work for a large vocabulary."""
    await asyncio.to_thread(model.grammars.bytes_of, 0)
    return model.grammars.bytes_of


async def _off_loop(work: Callable[[], T], *, size: int) -> T:
    return await asyncio.to_thread(work) if size > _LONG else work()
