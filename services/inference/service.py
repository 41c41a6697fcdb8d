"""The inference kind: what a request becomes before it is written, and which model answers. Nothing here commits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import service as catalog
from services.files import service as files
from services.inference import repository
from services.inference.models import ModelFacts, facts, served_context
from services.jobs.kinds import Prepared
from services.jobs.types import Claim
from shared.contracts.inference import InferenceSpec
from shared.contracts.serving import Serving
from shared.db.models import File, Model
from shared.errors import FieldError, NotFound, Unprocessable, ValidationFailed
from shared.manifest import Manifest
from shared.recent import Recent

MODEL_FOR_S = 1.0  #: how long a process believes what it read about a model's newest version
CHARACTERS_PER_TOKEN = 4  #: of English text; an estimate is enough for a plan
LINE_BYTES = 256  #: of an input file, to guess how many lines it has
#: one device's rate that fair sharing charges before the real figure is known: small models run on small
#: devices, so it varies less than either
TOKENS_PER_GPU_S = 5000.0
INLINE_SOURCES = {"prompts", "messages"}  #: fields of the spec that become lines

_models: Recent[ModelFacts] = Recent(MODEL_FOR_S)


@dataclass(frozen=True)
class AdapterModel:
    """The LoRA adapter that a request names, served beside its base."""

    id: UUID
    name: str
    digest: str
    manifest: Manifest
    rank: int


@dataclass(frozen=True)
class ServedModel:
    """The model version that an engine loads. `tenant_id` owns its blobs. Bytes and tokens.

    Of an adapter, all but `adapter` describes the base.
    """

    id: UUID
    tenant_id: UUID
    name: str
    digest: str
    manifest: Manifest
    config: dict[str, Any]
    bytes: int
    parameters: int
    dtype: str
    context_length: int
    kv_bytes_per_token: int
    kv_heads: int
    serving: Serving
    adapter: AdapterModel | None = None

    @property
    def served_as(self) -> str:
        """What a request to an engine calls the model."""
        return self.adapter.digest if self.adapter else self.digest

    @property
    def context(self) -> int:
        """Tokens that are served: the model's own, or less by its serving options."""
        return served_context(self.context_length, self.serving)


def prepare(session: Session, tenant_id: UUID, spec: InferenceSpec) -> Prepared:
    """Fix the model, turn prompts or chats into lines, and say what the job needs.

    Raises:
        UnknownModel: the tenant has no such model (`spec.model`).
        ValidationFailed: the model's context is too short for `spec.max_tokens`.
        Unprocessable: `spec.input_file` names no file of the tenant.
    """
    model = model_facts(session, tenant_id, spec.model)
    if spec.max_tokens >= model.context_length:
        message = (
            f"{model.name} holds {model.context_length} tokens, prompt included:"
            f" at most {model.context_length - 1} can be generated"
        )
        raise ValidationFailed(message, errors=(FieldError("spec.max_tokens", "context_length_exceeded", message),))
    file = _file(session, tenant_id, spec.input_file) if spec.input_file is not None else None
    lines = _lines(spec)
    tokens = _tokens(spec, lines, file)

    return Prepared(
        spec=spec.model_dump(mode="json", by_alias=True, exclude=INLINE_SOURCES),
        needs=model.needs(_longest(lines) // CHARACTERS_PER_TOKEN + spec.max_tokens),
        planned_gpu_s=tokens / TOKENS_PER_GPU_S,
        total=None if file else len(lines),
        lines=lines,
        expand=file is not None,
        extend=answered_by(tenant_id, model, input_file_id=file.id if file else None),
    )


def foresee(session: Session, tenant_id: UUID, spec: InferenceSpec) -> None:
    """Judge the file of a job whose model is not there yet.

    Raises:
        Unprocessable: `spec.input_file` names no file of the tenant.
    """
    if spec.input_file is not None:
        _file(session, tenant_id, spec.input_file)


def restore(stored: dict[str, Any], inputs: tuple[dict[str, Any], ...]) -> InferenceSpec:
    """The spec of a job that is run again: its lines go back to where they came from."""
    if stored.get("input_file") is not None:
        return InferenceSpec.model_validate(stored)
    source = "prompts" if "prompt" in inputs[0] else "messages"
    return InferenceSpec.model_validate(stored | {source: [line[_KEYS[source]] for line in inputs]})


def model_facts(session: Session, tenant_id: UUID, name: str, *, param: str = "spec.model") -> ModelFacts:
    """The version that a name, an alias, `name@version` or an id stands for, as read within the last second.

    Raises:
        UnknownModel: it stands for none; `param` names the offending field.
    """

    def read() -> ModelFacts:
        model = catalog.get(session, tenant_id, name, param=param)
        return facts(model, catalog.base_of(session, model))

    return _models.get(session, (tenant_id, name), read)


def model_of(session: Session, claim: Claim) -> ServedModel:
    """The model version that was fixed when the job was submitted."""
    model = repository.model_of(session, claim.tenant_id, claim.job_id)
    assert model is not None, f"job {claim.job_id} has no model"
    return _served(session, model)


def served(session: Session, tenant_id: UUID, model_id: UUID) -> ServedModel:
    """What an engine for one version of the tenant's models loads, deleted since or not.

    Raises:
        UnknownModel: there is none of that id.
    """
    return _served(session, catalog.by_id(session, tenant_id, model_id))


def answered_by(
    tenant_id: UUID, model: ModelFacts, *, input_file_id: UUID | None = None
) -> Callable[[Session, UUID], None]:
    """Writes the columns of a job whose lines a model answers."""
    return lambda session, job_id: repository.insert(
        session,
        job_id,
        tenant_id=tenant_id,
        model_id=model.id,
        model_digest=model.served_as,
        input_file_id=input_file_id,
    )


def like(parent_id: UUID) -> Callable[[Session, UUID], None]:
    """Writes a child's columns as its parent's are."""
    return lambda session, job_id: repository.copy(session, job_id, from_job_id=parent_id)


def _served(session: Session, model: Model) -> ServedModel:
    base = catalog.base_of(session, model)
    own, figures = base or model, facts(model, base)
    adapter = AdapterModel(
        id=model.id,
        name=model.name,
        digest=model.digest,
        manifest=Manifest.of_json(model.manifest),
        rank=int(model.config["r"]),
    ) if base else None  # fmt: skip
    return ServedModel(
        id=own.id,
        tenant_id=own.tenant_id,
        name=own.name,
        digest=own.digest,
        manifest=Manifest.of_json(own.manifest),
        config=own.config,
        bytes=own.bytes,
        parameters=own.parameters,
        dtype=own.dtype,
        context_length=own.context_length,
        kv_bytes_per_token=figures.kv_bytes_per_token,
        kv_heads=figures.kv_heads,
        serving=figures.serving,
        adapter=adapter,
    )


_KEYS = {"prompts": "prompt", "messages": "messages"}


def _lines(spec: InferenceSpec) -> tuple[dict[str, Any], ...]:
    if spec.prompts is not None:
        return tuple({"prompt": prompt} for prompt in spec.prompts)
    chats = spec.messages or ()
    return tuple({"messages": [message.model_dump() for message in chat]} for chat in chats)


def _file(session: Session, tenant_id: UUID, file_id: str) -> File:
    try:
        return files.get(session, tenant_id, file_id, param="spec.input_file")
    except NotFound as error:
        raise Unprocessable(f"there is no file {file_id!r}", param="spec.input_file") from error


def _tokens(spec: InferenceSpec, lines: Sequence[dict[str, Any]], file: File | None) -> int:
    """Tokens read and written, guessed from sizes."""
    count = len(lines) if file is None else max(1, file.bytes // LINE_BYTES)
    size = sum(map(_size, lines)) if file is None else file.bytes
    return size // CHARACTERS_PER_TOKEN + count * spec.max_tokens


def _longest(lines: Sequence[dict[str, Any]]) -> int:
    return max(map(_size, lines), default=0)


def _size(line: dict[str, Any]) -> int:
    if "prompt" in line:
        return len(line["prompt"])
    return sum(len(message["content"]) for message in line["messages"])
