"""How the lines of a batch are cut into child jobs: one model each, neighbours together, none too large."""

from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from services.batches.input import BadFile, Lines, Request
from services.batches.order import Index, ordered
from services.inference.models import ModelFacts
from services.inference.service import TOKENS_PER_GPU_S, answered_by, model_facts
from services.jobs import service as job_service
from services.jobs.plan import Plan, choose
from services.jobs.service import CHILD_LINES, Part
from shared.contracts.batches import Problem, unknown_line
from shared.contracts.jobs import Pool
from shared.db.models import Job
from shared.errors import ModelyardError, UnknownModel

CHILD_BYTES = 8 * 1024**2  #: of the lines of one child: they are in memory when it is written


@dataclass(frozen=True)
class Piece:
    """One child before it is written: its lines, in the order in which it runs them, and where."""

    numbers: Sequence[int]
    model: ModelFacts
    plan: Plan
    planned_gpu_s: float


@dataclass(frozen=True)
class Division:
    """All children of a batch."""

    pieces: list[Piece]
    unknown: Mapping[int, str]  #: models of the file, by their place in it, that the tenant does not have


def divide(session: Session, parent: Job, lines: Lines) -> Division:
    """The children of a batch, each of one model.

    A line that names an unknown model, or none, fails alone: it goes with the lines of another model.

    Raises:
        BadFile: no line names a model that there is, or the GPU class asked for is too small for one of them.
    """
    models = [None if name is None else _model(session, parent.tenant_id, name) for name in lines.models]
    if not any(models):
        raise BadFile(tuple(_missing(name, line) for name, line in lines.models.items()))
    groups: defaultdict[UUID, array[int]] = defaultdict(_numbers)
    strays = _numbers()
    for number, place in enumerate(lines.index.models):
        model = models[place]
        (strays if model is None else groups[model.id]).append(number)
    pieces: list[Piece] = []
    for numbers in groups.values():
        place = lines.index.models[numbers[0]]
        model, line = models[place], list(lines.models.values())[place]
        assert model is not None
        cut = _cut(lines.index, [*ordered(lines.index, numbers), *strays])
        pieces.extend(_piece(session, parent, model, index=lines.index, numbers=some, line=line) for some in cut)
        strays = _numbers()
    unknown = {place: name for place, name in enumerate(lines.models) if name is not None and models[place] is None}
    return Division(pieces, unknown)


def write(
    session: Session, parent: Job, piece: Piece, *, requests: Sequence[Request], unknown: Mapping[int, str]
) -> None:
    """Insert one child with its lines."""
    inputs = (
        unknown_line(unknown[request.model], request.body) if request.model in unknown else request.body
        for request in requests
    )
    part = Part(
        lines=tuple(inputs),
        numbers=tuple(piece.numbers),
        custom_ids=tuple(request.custom_id for request in requests),
        plan=piece.plan,
        planned_gpu_s=piece.planned_gpu_s,
    )

    job_service.add_child(session, parent, part, extend=answered_by(parent.tenant_id, piece.model))


def _model(session: Session, tenant_id: UUID, name: str) -> ModelFacts | None:
    try:
        return model_facts(session, tenant_id, name, param="body.model")
    except UnknownModel:
        return None


def _missing(name: str | None, line: int) -> Problem:
    if name is None:
        return Problem(
            code="missing_required_parameter", message="The body names no model.", line=line, param="body.model"
        )
    return Problem(code=UnknownModel.code, message="There is no model of that name.", line=line, param="body.model")


def _cut(index: Index, numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    some, size = _numbers(), 0
    for number in numbers:
        if len(some) == CHILD_LINES or (some and size + index.sizes[number] > CHILD_BYTES):
            yield some
            some, size = _numbers(), 0
        some.append(number)
        size += index.sizes[number]
    yield some


def _piece(
    session: Session, parent: Job, model: ModelFacts, *, index: Index, numbers: Sequence[int], line: int
) -> Piece:
    tokens = [index.tokens[number] for number in numbers]
    needs = model.needs(max(tokens))
    try:
        plan = choose(session, pool=Pool.SERVE, gpu_class=parent.gpu_class, needs=needs)
    except ModelyardError as error:
        problem = Problem(code=error.code, message=error.message, line=line, param="body.model")
        raise BadFile((problem,)) from error
    whole = sum(min(each, model.context_length) for each in tokens)
    return Piece(numbers, model, plan, whole / TOKENS_PER_GPU_S)


def _numbers() -> "array[int]":
    return array("I")
