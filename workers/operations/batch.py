"""The `batch` kind: the lines of one child of a batch, each a request as its author wrote it, each recorded once.

A line's bytes do not hang on who ran it, when, or how often a process died: equal lines have equal answers, sampling
has a seed of the line's own, and what differs from run to run (ids, times, what the KV cache knew) is left out or made
of the line itself. The merge adds ids and times.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.inference import service as inference
from services.inference.service import CHARACTERS_PER_TOKEN, ServedModel
from services.jobs.types import Claim
from services.responses.keys import PLAIN, deterministic, key_of
from services.responses.types import Key
from shared.contracts import caching
from shared.contracts.batches import BatchLineUsage, unknown_in
from shared.contracts.bodies import BadRequest, parse, sent
from shared.contracts.caching import CacheWish
from shared.contracts.openai import AnyBody, ChatBody, CompletionBody, EmbeddingBody, GenerateBody
from shared.contracts.serving import Mode
from shared.db.models import JobItem
from workers.operations.asking import Answered
from workers.operations.lines import Line
from workers.operations.pumping import Result, generate
from workers.operations.storable import storable
from workers.runtime.batching.values import Cost
from workers.runtime.host import Host
from workers.runtime.work import Finish, Work

BODIES: Final[Mapping[str, type[AnyBody]]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingBody,
}
COMPLETION_TOKENS: Final = 16  #: of /v1/completions, as OpenAI's; a chat may fill the context
UNSTEADY: Final = frozenset({"id", "created"})  #: of an answer; the merge makes them of the file and the line
SEED_DIGITS: Final = 12  #: hexadecimal: choice i has seed + i, and JSON's numbers are exact below 2^53
UNSUPPORTED: Final = "unsupported_parameter"
ON: Final = CacheWish(mode="on")


async def run(work: Work, host: Host) -> Finish:
    """Run the lines that no attempt has recorded yet. The courier makes the files of a batch when all have ended.

    Raises:
        JobFailed: the engine keeps dying, or cannot be started.
        Fenced: another attempt owns the job.
    """
    model = await host.transactions.insist(lambda session, _: inference.model_of(session, work.claim))
    bodies = Bodies(work.claim, model)
    await generate(work, host, bodies, model=model, mode=bodies.mode)
    return work.succeeded()


class Bodies:
    """The lines of one child: request bodies in, response bodies out."""

    def __init__(self, claim: Claim, model: ServedModel) -> None:
        self._tenant = claim.tenant_id
        self._path: str = claim.spec["endpoint"]
        self._base = model.digest
        self._adapter = model.adapter.digest if model.adapter else None
        self._name = model.served_as
        self._context = model.context
        self.mode = Mode.EMBED if BODIES[self._path] is EmbeddingBody else Mode.GENERATE

    def line(self, item: JobItem) -> Line | Result:
        """The request that a body is, checked as a call's is."""
        given = item.input
        if unknown := unknown_in(given):
            told = f"There is no model {unknown[0][:128]!r}."
            return refusal(404, code="model_not_found", message=told, param="model")
        try:
            return self._line(item.line_no, given)
        except BadRequest as error:
            return refusal(400, code=error.code, message=str(error), param=error.param)

    def result(self, line: Line, answered: Answered) -> Result:
        """What is recorded of an answer: its body, without what differs from run to run, and what it took.

        Of anything but an answer: an error with its status and body.
        """
        if answered.status != 200:
            error = answered.error
            return refusal(answered.status, code=error.code, message=error.title, param=answered.param)
        body = {name: value for name, value in answered.body.items() if name not in UNSTEADY}
        body["model"] = line.name
        usage = dict(body.get("usage") or {})
        details = usage.pop("prompt_tokens_details", None) or {}
        body["usage"] = usage
        if line.key is not None:
            _name_calls(body.get("choices", ()), line.key.sha256)
        # The body says what its answer took, so that equal lines are equal; to the batch's account it comes only
        # once: what was answered with another line's answer, or from the cache, has cost nothing.
        spent = BatchLineUsage(
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            cached_tokens=details.get("cached_tokens") or 0,
        )
        return Result(output={"body": body, "usage": (spent if answered.fresh else BatchLineUsage()).model_dump()})

    def _line(self, number: int, given: Mapping[str, Any]) -> Line:
        wish, fields = caching.take(given)
        body = parse(fields, BODIES[self._path])
        if isinstance(body, GenerateBody) and body.stream:
            raise BadRequest("A batch has whole answers: leave `stream` out.", code=UNSUPPORTED, param="stream")
        own: dict[str, Any] = {"model": self._name}
        key = self._key(body, ON)
        if not deterministic(body):
            own["seed"] = int(key.sha256[:SEED_DIGITS], 16)
            if wish.mode != "on":  # who says `on` takes whatever the cache has for the body as it stands
                key = self._key(body.model_copy(update={"seed": own["seed"]}), PLAIN)
        return Line(
            number,
            self._path,
            {**sent(fields), **own},
            self._cost(body),
            key,
            wish=wish,
            name=body.model,
            answers=len(body.inputs) if isinstance(body, EmbeddingBody) else body.n,
        )

    def _key(self, body: AnyBody, wish: CacheWish) -> Key:
        key = key_of(body, tenant_id=self._tenant, digest=self._base, adapter=self._adapter, wish=wish)
        assert key is not None
        return key

    def _cost(self, body: AnyBody) -> Cost:
        match body:
            case ChatBody():
                prompts: Sequence[str | list[int]] = ["".join(message.text for message in body.messages)]
            case CompletionBody():
                prompts = body.prompts
            case EmbeddingBody():
                return Cost(prompt_tokens=sum(map(_tokens, body.inputs)))
        read = sum(map(_tokens, prompts))
        rest = COMPLETION_TOKENS if isinstance(body, CompletionBody) else max(1, self._context - read)
        return Cost(prompt_tokens=read, output_tokens=(body.limit or rest) * body.n * len(prompts))


def refusal(status: int, *, code: str, message: str, param: str | None = None) -> Result:
    """An error of a line, with the body that the same request would have had as a call."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Result(error=storable({"status_code": status, "code": code, "message": message, "body": body}))


def _tokens(prompt: str | list[int]) -> int:
    """An estimate for a text."""
    return len(prompt) // CHARACTERS_PER_TOKEN if isinstance(prompt, str) else len(prompt)


def _name_calls(choices: Sequence[Any], line: str) -> None:
    """Give calls of tools ids that are the same in every run."""
    for choice in choices:
        for place, call in enumerate((choice.get("message") or {}).get("tool_calls") or ()):
            made = hashlib.sha256(f"{line}:{choice.get('index')}:{place}".encode())
            call["id"] = f"call_{made.hexdigest()[:24]}"
