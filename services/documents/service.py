"""Document sets: what a request becomes before it is written, and what its parts read of it. Nothing here commits."""

import string
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy.orm import Session

from services.documents import input_repository, packs, schemas
from services.documents.operations import LEAST, Budget, empty_prompt, task_of
from services.documents.tasks import Task
from services.files import repository as file_rows
from services.files import service as files
from services.inference.service import CHARACTERS_PER_TOKEN, TOKENS_PER_GPU_S, answered_by, model_facts
from services.jobs import repository as jobs
from services.jobs.kinds import Prepared
from services.jobs.types import Claim
from shared.contracts.documents import (
    SET_FILES,
    Custom,
    DocumentInput,
    DocumentSetSpec,
    Extract,
    Operation,
    Pack,
    Summarize,
)
from shared.db.models import File
from shared.errors import FieldError, InvalidField, Unprocessable, ValidationFailed
from shared.ids import parse_prefixed

WRONG_FILES: Final = 100  #: that one answer names
#: characters a byte of a file is worth: what is compressed, or mostly pictures and layout, holds less text
DENSITY: Final = {".pdf": 0.1, ".docx": 0.2, ".xlsx": 1.0, ".html": 0.5, ".htm": 0.5}


def prepare(session: Session, tenant_id: UUID, spec: DocumentSetSpec) -> Prepared:
    """Find the model, the files and the pack; each file is one line. The pack is stored as it is now.

    Raises:
        UnknownModel: the tenant has no such model (`spec.model`).
        ValidationFailed: a schema or a template cannot be used, a file is missing or given twice, or the parts, the
            prompt and the answers do not fit the model's context; each names its field.
        Unprocessable: there is no such pack, or it has a mistake (`spec.pack`).
    """
    model = model_facts(session, tenant_id, spec.model)
    spec = spec.model_copy(update={"pack": _pack(spec)})
    if isinstance(spec.operation, Custom):
        _check_template(spec.operation.template)
    task = task_of(spec, context=model.context_length)
    budget = _budget(spec, task, context=model.context_length)
    part = _check_fit(spec, budget)
    overlap = min(spec.chunking.overlap, part // 2)
    chunking = spec.chunking.model_copy(update={"overlap": overlap})
    spec = spec.model_copy(update={"chunking": chunking, "operation": _ordered(spec.operation)})
    rows = _files(session, tenant_id, spec.files)

    of_child = answered_by(tenant_id, model)

    def of_parent(session: Session, job_id: UUID) -> None:
        of_child(session, job_id)
        input_repository.keep(session, job_id, tenant_id, [row.id for row in rows])

    stored = spec.model_dump(mode="json", by_alias=True)
    return Prepared(
        spec=stored,
        needs=model.needs(budget.context - budget.room + part),
        planned_gpu_s=_tokens(rows, spec) / TOKENS_PER_GPU_S,
        total=len(rows),
        unit="documents",
        lines=tuple(map(_line, rows)),
        job_lines=0,
        child_lines=SET_FILES,
        child_spec=_of_child(stored),
        extend=of_parent,
        extend_child=of_child,
    )


def foresee(session: Session, tenant_id: UUID, spec: DocumentSetSpec) -> None:
    """Judge the files, the pack and the template of a set whose model is not there yet.

    Raises:
        ValidationFailed: the template cannot be used, a file is missing or given twice; each names its field.
        Unprocessable: there is no such pack, or it has a mistake (`spec.pack`).
    """
    _pack(spec)
    if isinstance(spec.operation, Custom):
        _check_template(spec.operation.template)
    _files(session, tenant_id, spec.files)


def restore(stored: dict[str, Any], inputs: tuple[dict[str, Any], ...]) -> DocumentSetSpec:
    """The spec of a set that is run again, or of the part of it that a child has read."""
    return DocumentSetSpec.model_validate(stored | {"files": [line["file_id"] for line in inputs]})


def spec_of(session: Session, claim: Claim) -> DocumentSetSpec:
    """The whole spec that a child works by: its parent's."""
    assert claim.parent_id is not None, claim.job_id
    parent = jobs.get(session, claim.tenant_id, claim.parent_id)
    assert parent is not None, claim.parent_id
    return DocumentSetSpec.model_validate(parent.spec)


def _of_child(stored: dict[str, Any]) -> dict[str, Any]:
    """What a child's row holds. Ten thousand ids and a pack of megabytes, in each of 1,250 rows, would be gigabytes."""
    spec = {name: value for name, value in stored.items() if name != "files"}
    return spec | {"pack": spec["pack"] and spec["pack"]["name"]}


def _pack(spec: DocumentSetSpec) -> Pack | None:
    try:
        return packs.resolve(spec.pack)
    except InvalidField as error:
        raise Unprocessable(error.message, param=error.param) from error


def _ordered(operation: Operation) -> Operation:
    """The operation with a schema that keeps its order in the database."""
    if isinstance(operation, Extract | Custom) and operation.schema_ is not None:
        return operation.model_copy(update={"schema_": schemas.ordered(operation.schema_)})
    return operation


def _check_template(template: str) -> None:
    """Names alone are replaced: a width of a billion, or an attribute, is nothing that a prompt needs."""
    for _, name, form, conversion in string.Formatter().parse(template):
        if form or conversion:
            raise _wrong("spec.operation.template", f"write {{{name}}} alone, without : or !")


def _budget(spec: DocumentSetSpec, task: Task, *, context: int) -> Budget:
    """The budget by a guess on the safe side: 2.5 bytes of a prompt are a token."""
    return Budget(context=context, prompt=len(empty_prompt(task).encode()) * 2 // 5, answer=spec.max_tokens)


def _check_fit(spec: DocumentSetSpec, budget: Budget) -> int:
    """The tokens of a part.

    Raises:
        ValidationFailed: `spec.operation`, `spec.max_tokens` or `spec.chunking…` is too large for the context.
    """
    holds = f"{spec.model} holds {budget.context} tokens, the prompt takes about {budget.prompt} of them"
    least = max(LEAST, 2 * spec.max_tokens if isinstance(spec.operation, Summarize) else 0)
    if budget.room < least:
        longest = budget.longest_answer(part=LEAST)
        if isinstance(spec.operation, Summarize):
            longest = min(longest, budget.longest_answer(part=0) // 2)  # two summaries are combined in one request
        if longest < 16:
            raise _too_large("spec.operation", f"{holds}: there is no room for a document; use a shorter prompt")
        raise _too_large("spec.max_tokens", f"{holds}: at most {longest} can be generated for each part")
    tokens, overlap = spec.chunking.tokens, spec.chunking.overlap
    if tokens is not None and tokens > budget.room:
        message = f"{holds}, two answers {2 * spec.max_tokens}: a part has at most {budget.room}"
        raise _too_large("spec.chunking.tokens", message)
    part = tokens or budget.room
    if overlap > part // 2 and "overlap" in spec.chunking.model_fields_set:
        message = f"a part has {part} tokens: neighbours share at most {part // 2}"
        raise _too_large("spec.chunking.overlap", message)
    return part


def _files(session: Session, tenant_id: UUID, named: Sequence[str]) -> list[File]:
    ids = [parse_prefixed(files.PREFIX, each) for each in named]
    found = file_rows.some(session, tenant_id, {each for each in ids if each is not None})
    first: dict[UUID | None, int] = {}
    errors: list[FieldError] = []
    for number, each in enumerate(ids):
        param = f"spec.files.{number}"
        if each not in found:
            errors.append(FieldError(param, "not_found", f"there is no file {named[number][:64]!r}"))
        elif first.setdefault(each, number) != number:
            errors.append(FieldError(param, "duplicate", f"this file is given already, as files.{first[each]}"))
    if errors:
        raise ValidationFailed(errors[0].message, errors=tuple(errors[:WRONG_FILES]))
    return [found[each] for each in ids if each is not None]


def _line(file: File) -> dict[str, Any]:
    given = DocumentInput(file_id=files.public_id(file), filename=file.filename, sha256=file.sha256, bytes=file.bytes)
    return given.model_dump()


def _tokens(rows: Sequence[File], spec: DocumentSetSpec) -> float:
    """Tokens read and written, guessed from sizes and names."""
    characters = sum(row.bytes * DENSITY.get(_suffix(row.filename), 1.0) for row in rows)
    return characters / CHARACTERS_PER_TOKEN + len(rows) * spec.max_tokens


def _suffix(filename: str) -> str:
    return "." + filename.rpartition(".")[2].lower()


def _too_large(param: str, message: str) -> ValidationFailed:
    return _wrong(param, message, code="context_length_exceeded")


def _wrong(param: str, message: str, *, code: str = "invalid_value") -> ValidationFailed:
    return ValidationFailed(message, errors=(FieldError(param, code, message),))
