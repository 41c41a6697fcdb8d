"""The task that a document set's operation is, and how many tokens its parts may have."""

from dataclasses import dataclass
from typing import Any, Final

from services.documents import schemas
from services.documents.classification import Classification
from services.documents.customizing import Customized
from services.documents.extraction import Extraction
from services.documents.summaries import Summary
from services.documents.tasks import Part, Task, Terms
from services.documents.terms import HINT
from shared.contracts.documents import Classify, Custom, DocumentSetSpec, Extract, Pack, Summarize

SCHEMA: Final = "spec.operation.schema"
LEAST: Final = 64  #: tokens of a part: with fewer, quotes do not fit
#: tokens of a request besides the prompt, the part and the answers: the chat's own marks, what a repair tells, and
#: a margin, because an answer that is read back may be cut into more tokens than it was written in
OVERHEAD: Final = 320


@dataclass(frozen=True)
class Budget:
    """How the tokens of a model's context are used. A repair holds the first answer beside the new one."""

    context: int
    prompt: int
    answer: int

    @property
    def room(self) -> int:
        """The most tokens that a part may have."""
        return self.context - self.prompt - OVERHEAD - 2 * self.answer

    def longest_answer(self, *, part: int) -> int:
        """The most tokens that an answer may have beside a part."""
        return (self.context - self.prompt - OVERHEAD - part) // 2


def task_of(spec: DocumentSetSpec, *, context: int) -> Task:
    """The task of a spec whose pack is resolved, for a model that holds `context` tokens.

    The pack's terms take at most about an eighth of the context.

    Raises:
        ValidationFailed: its schema cannot be used (`spec.operation.schema…`).
    """
    assert not isinstance(spec.pack, str), spec.pack
    pack: Pack | None = spec.pack
    terms = Terms(pack, budget=min(HINT, context // 2))
    match spec.operation:
        case Extract() as operation:
            return Extraction(operation, schemas.check(operation.schema_, param=SCHEMA), terms)
        case Summarize() as operation:
            return Summary(operation, terms)
        case Classify() as operation:
            return Classification(operation, terms)
        case Custom() as operation:
            return Customized(operation, _any_shape(operation.schema_))


def empty_prompt(task: Task) -> str:
    """What every request of a task says, whatever its part is."""
    return task.prompt(Part(number=1, pieces=()))


def _any_shape(schema: dict[str, Any] | None) -> schemas.Shape | None:
    return None if schema is None else schemas.check(schema, param=SCHEMA, root=None)
