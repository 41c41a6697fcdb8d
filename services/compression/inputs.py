"""What jobs of the three kinds read: models and files of the tenant, found and judged before a job is written.

Fields of errors are named as they stand in the spec (`data.0.file_id`); callers put `spec` in front.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import service as catalog
from services.catalog.figures import text_config
from services.catalog.rules import ADAPTER
from services.files import repository as file_rows
from services.files import service as files
from services.files.service import Purpose
from shared.contracts.compression import Sampling
from shared.contracts.evaluation import FileSource, GenerationTask, Source, Task, TextTask
from shared.db.models import File, Model
from shared.errors import FieldError, Unprocessable, ValidationFailed
from shared.ids import parse_prefixed

#: purposes of files that hold texts; what the others hold is no lines of text
PURPOSES: Final = (Purpose.CALIBRATION, Purpose.EVALS, Purpose.FINE_TUNE, Purpose.USER_DATA)
WRONG_FILES: Final = 100  #: that one answer names
SAMPLE_TOKENS: Final = 2048  #: of a calibration sample, where nothing else is asked
TASK_TOKENS: Final = 512  #: of a sequence that is judged, where nothing else is asked


def model_of(session: Session, tenant_id: UUID, name: str, *, param: str = "model") -> Model:
    """The version that a job works on.

    Raises:
        UnknownModel: the tenant has none of that name.
        Unprocessable: it is an adapter.
    """
    model = catalog.get(session, tenant_id, name, param=param)
    if model.kind == ADAPTER:
        raise Unprocessable(f"{name[:128]} is an adapter: merge it into its base first.", param=param)
    return model


def check_unquantized(model: Model) -> None:
    """Refuse what is quantized already.

    Raises:
        Unprocessable: it is.
    """
    if model.config.get("quantization_config") is not None:
        raise Unprocessable(f"{full_name(model)} is quantized already: start from the original.", param="model")


def check_vocabularies(model: Model, baseline: Model, tasks: Sequence[Task]) -> None:
    """Refuse to compare next tokens of models that do not count the same ones.

    Raises:
        Unprocessable: a task compares them, and the vocabularies differ in size.
    """
    own, other = (text_config(each.config).get("vocab_size") for each in (model, baseline))
    if own != other and any(isinstance(task, TextTask) for task in tasks):
        why = f"{full_name(baseline)} has a vocabulary of {other} tokens, {full_name(model)} one of {own}"
        raise Unprocessable(f"{why}: their next tokens cannot be compared.", param="baseline")


def full_name(model: Model) -> str:
    """`name@version`, which stands for the same weights for ever."""
    return f"{model.name}@{model.version}"


def sampled(sampling: Sampling, model: Model) -> Sampling:
    """The sampling with the length that its samples will have.

    Raises:
        ValidationFailed: it is longer than the model's context.
    """
    length = _length(sampling.sequence_length, SAMPLE_TOKENS, [model], param="sampling.sequence_length")
    return sampling.model_copy(update={"sequence_length": length})


def measured(tasks: Sequence[Task], models: Sequence[Model], *, param: str) -> list[Task]:
    """Tasks with the lengths that their sequences will have; `param` is the list's field.

    Raises:
        ValidationFailed: a sequence, or an answer, is longer than one of the models' contexts.
    """
    return [_measured(task, models, param=f"{param}.{number}") for number, task in enumerate(tasks)]


def _measured(task: Task, models: Sequence[Model], *, param: str) -> Task:
    if isinstance(task, TextTask):
        length = _length(task.sequence_length, TASK_TOKENS, models, param=f"{param}.sequence_length")
        return task.model_copy(update={"sequence_length": length})
    if isinstance(task, GenerationTask):
        _length(task.max_tokens + 1, 0, models, param=f"{param}.max_tokens")  # a prompt has one token at least
    return task


def _length(asked: int | None, usual: int, models: Sequence[Model], *, param: str) -> int:
    shortest = min(models, key=lambda model: model.context_length)
    most = shortest.context_length
    if asked is not None and asked > most:
        message = f"{full_name(shortest)} holds {most} tokens"
        raise ValidationFailed(message, errors=(FieldError(param, "context_length_exceeded", message),))
    return asked or min(usual, most)


def of_sources(data: Sequence[Source], *, param: str) -> Iterator[tuple[str, str]]:
    """(field, id) of each file among sources."""
    for number, source in enumerate(data):
        if isinstance(source, FileSource):
            yield f"{param}.{number}.file_id", source.file_id


def of_tasks(tasks: Sequence[Task], *, param: str) -> Iterator[tuple[str, str]]:
    """(field, id) of each file that tasks read."""
    for number, task in enumerate(tasks):
        if isinstance(task, TextTask):
            yield from of_sources(task.data, param=f"{param}.{number}.data")
        else:
            yield f"{param}.{number}.file_id", task.file_id


def texts(session: Session, tenant_id: UUID, named: Iterable[tuple[str, str]]) -> list[File]:
    """The files behind (field, id), each once.

    Raises:
        ValidationFailed: the tenant has no such file (any more), or it is for something else; each is named.
    """
    asked = list(named)
    ids = {text: parse_prefixed(files.PREFIX, text) for _, text in asked}
    found = file_rows.some(session, tenant_id, {each for each in ids.values() if each is not None})
    errors = [error for param, text in asked if (error := _wrong(param, text, found.get(ids[text])))]  # type: ignore[arg-type]
    if errors:
        raise ValidationFailed(errors[0].message, errors=tuple(errors[:WRONG_FILES]))
    return list(found.values())


def _wrong(param: str, text: str, file: File | None) -> FieldError | None:
    if file is None:
        return FieldError(param, "not_found", f"there is no file {text[:64]!r}")
    if file.purpose not in PURPOSES:
        message = f"the file's purpose is {file.purpose}: texts are {', '.join(PURPOSES)}"
        return FieldError(param, "wrong_purpose", message)
    if file.bytes == 0:
        return FieldError(param, "empty_file", "the file is empty")
    return None
