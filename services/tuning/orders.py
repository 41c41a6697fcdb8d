"""What a claimed job of tuning or merging works on, and what its forge is told. No session leaves `read`, no HTTP."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import service as catalog
from services.compression import sources
from services.compression.about import Origin
from services.compression.library import Text
from services.compression.sources import FileRef
from services.inference.service import ServedModel, served
from services.jobs.types import Claim
from services.tuning import repository
from shared.contracts.evaluation import Source
from shared.contracts.forge_orders import Subject
from shared.contracts.tuning import MergeSpec, Relief, TuningSpec
from shared.contracts.tuning_orders import MergeOrder, TuneOrder
from shared.db.models import Model
from shared.storage import Blob

SPECS: Final[Mapping[str, type[TuningSpec | MergeSpec]]] = {"merge": MergeSpec, "tuning": TuningSpec}


@dataclass(frozen=True)
class Material:
    """All that a claim needs to know."""

    job_id: UUID
    tenant_id: UUID
    spec: TuningSpec | MergeSpec  #: as stored, nothing left open
    name: str  #: of the version to come
    base: ServedModel  #: what is trained; of a merge, with the adapter that is added to it
    row: Model  #: the base's
    adapter: Model | None  #: of a merge alone: the adapter's row
    files: Mapping[str, FileRef]  #: by public id
    relief: Relief = Relief()  # noqa: RUF009 - immutable

    @property
    def tuning(self) -> TuningSpec:
        """The spec of a tuning; nobody asks for a merge's."""
        assert isinstance(self.spec, TuningSpec)
        return self.spec

    @property
    def adapts(self) -> bool:
        """Whether what comes of it is an adapter of the base, rather than a whole model."""
        return isinstance(self.spec, TuningSpec) and not self.spec.method.merged


def read(session: Session, claim: Claim) -> Material:
    """What was fixed when the job was submitted, and what it has learned of its memory since."""
    job = repository.job(session, claim.tenant_id, claim.job_id)
    assert job is not None, f"job {claim.job_id} has no columns"
    asked = catalog.by_id(session, claim.tenant_id, job.model_id)
    base = catalog.base_of(session, asked)
    return Material(
        job_id=claim.job_id,
        tenant_id=claim.tenant_id,
        spec=SPECS[claim.kind].model_validate(claim.spec),
        name=job.name,
        base=served(session, claim.tenant_id, asked.id),
        row=base or asked,
        adapter=asked if base else None,
        files=sources.by_id(repository.files(session, claim.tenant_id, claim.job_id)),
        relief=Relief.model_validate(job.relief),
    )


def wanted(material: Material) -> dict[str, Blob]:
    """The contents to fetch, by their path below the folder of the data."""
    return sources.wanted(material.files)


def lay_library(material: Material, folder: Path) -> dict[str, Text]:
    """Write the parts of the library text that the job reads into the folder of its data; by their paths.

    Takes about a second.
    """
    return sources.lay_library(_sources(material), folder)


def origins(material: Material) -> list[Origin]:
    """Where the examples are from; none of a merge."""
    return [] if isinstance(material.spec, MergeSpec) else _origins(material, material.spec.data)


def validation_origins(material: Material) -> list[Origin]:
    """Where the examples are from that only the loss is looked at of; none where they are taken from the data."""
    return [] if isinstance(material.spec, MergeSpec) else _origins(material, material.spec.validation, held_out=True)


def tune_order(material: Material, *, model: Path, data: Path) -> TuneOrder:
    """What a tuning's forge is told; the model and the data lie in these folders."""
    spec = material.tuning
    reference = spec.preparation.reference if spec.preparation else ()
    assert spec.training.learning_rate is not None
    assert (spec.lora is None) == (not spec.method.adapts)
    return TuneOrder(
        model=Subject(folder=model, name=spec.model),
        name=material.name,
        method=spec.method,
        lora=spec.lora,
        training=spec.training,
        checkpoints=spec.checkpoints,
        data=[sources.data(material.files, source, data) for source in spec.data],
        validation=[sources.data(material.files, source, data, held_out=True) for source in spec.validation],
        validation_share=spec.validation_share,
        preparation=spec.preparation,
        reference=[sources.data(material.files, source, data) for source in reference],
        context_length=material.base.context_length,
        relief=material.relief,
    )


def merge_order(material: Material, *, model: Path, adapter: Path) -> MergeOrder:
    """What a merge's forge is told; the base and the adapter lie in these folders."""
    assert material.adapter is not None
    named = material.adapter
    return MergeOrder(
        model=Subject(folder=model, name=f"{material.row.name}@{material.row.version}"),
        adapter=Subject(folder=adapter, name=f"{named.name}@{named.version}"),
    )


def _sources(material: Material) -> Iterator[tuple[Source, bool]]:
    """Every source that the job reads, and whether it is held out where it is library text."""
    if isinstance(material.spec, MergeSpec):
        return
    spec = material.spec
    yield from ((source, False) for source in spec.data)
    yield from ((source, False) for source in (spec.preparation.reference if spec.preparation else ()))
    yield from ((source, True) for source in spec.validation)


def _origins(material: Material, named: Sequence[Source], *, held_out: bool = False) -> list[Origin]:
    return [sources.origin(material.files, source, held_out=held_out) for source in named]
