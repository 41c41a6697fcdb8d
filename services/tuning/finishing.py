"""The end of a job of tuning or merging: its rows, written in the fenced transaction that ends it.

Artifacts are added before; nothing here commits or talks to the outside.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from services.catalog.register import Staged, Wish, write
from services.files import service as files
from services.files.service import Purpose
from services.jobs.types import Claim
from services.placement import ahead
from services.tuning import finish_repository, orders
from services.tuning.names import checkpoint_name
from services.tuning.orders import Material
from shared.contracts.tuning import TuningFigures, TuningSpec
from shared.db.models import Artifact, File, Model
from shared.storage import Blob

RESULT_FILE = "step_metrics.csv"  #: what OpenAI's `result_files` lists
#: options of a training that change how long it takes, and not what comes of it
WAYS = {"gradient_checkpointing", "compile", "activation_offloading", "evaluate_every", "log_every"}


@dataclass(frozen=True)
class Tuned:
    """What a tuning leaves beside its version."""

    figures: TuningFigures
    artifact: Artifact  #: that the job's result names
    metrics: Blob  #: the CSV file, stored


def keep(session: Session, claim: Claim, *, material: Material, staged: Staged, tuned: Tuned) -> Model:
    """Register what was trained, name its metrics as a file, and say what came of the run.

    Raises:
        NameTaken: somebody has taken the name or the alias meanwhile.
    """
    model = write(session, staged)
    finish_repository.finish(
        session,
        claim.job_id,
        figures=tuned.figures.model_dump(mode="json"),
        trained_tokens=tuned.figures.tokens,
        result_model_id=model.id,
        artifact_id=tuned.artifact.id,
        result_file_id=_result_file(session, claim, tuned.metrics).id,
    )
    if material.tuning.serve:
        ahead.foresee(session, tenant_id=claim.tenant_id, model_id=model.id)
    return model


def keep_merged(session: Session, claim: Claim, *, staged: Staged, artifact: Artifact) -> Model:
    """Register what was merged.

    Raises:
        NameTaken: somebody has taken the name or the alias meanwhile.
    """
    model = write(session, staged)
    finish_repository.finish(session, claim.job_id, result_model_id=model.id, artifact_id=artifact.id)
    return model


def wish(material: Material, source: dict[str, Any]) -> Wish:
    """What the catalog is asked for; `source` is the `lineage`."""
    spec = material.spec
    if material.adapts:
        return Wish(material.name, base=material.row, alias=spec.alias, source=source)
    return Wish(material.name, serving=spec.serving, alias=spec.alias, source=source)


def checkpoint_wish(material: Material, *, step: int) -> Wish:
    """The same for the model of a checkpoint, which has a name of its own."""
    source = lineage(material) | {"step": step}
    name = checkpoint_name(material.name, step)
    if material.adapts:
        return Wish(name, base=material.row, source=source)
    return Wish(name, serving=material.spec.serving, source=source)


def lineage(material: Material, *, figures: TuningFigures | None = None) -> dict[str, Any]:
    """Where a version is from: its base, and what was trained on what, or which adapter was added."""
    spec = material.spec
    about: dict[str, Any] = {"job_id": str(material.job_id), "base": _named(material.row)}
    if not isinstance(spec, TuningSpec):
        assert material.adapter is not None
        return {"type": "merge", **about, "adapter": _named(material.adapter)}
    came = {} if figures is None else _came(figures)
    return {
        "type": "tuning",
        **about,
        "method": str(spec.method),
        "hyperparameters": _hyperparameters(spec),
        "data": [vars(each) for each in orders.origins(material)],
        "validation": [vars(each) for each in orders.validation_origins(material)],
        "serve": spec.serve,
        **came,
    }


def _named(model: Model) -> dict[str, Any]:
    return {"id": str(model.id), "name": model.name, "version": model.version, "digest": model.digest}


def _hyperparameters(spec: TuningSpec) -> dict[str, Any]:
    """What was asked for, as far as it shapes the result."""
    shape = {} if spec.lora is None else {"lora": spec.lora.model_dump(mode="json")}
    return shape | spec.training.model_dump(mode="json", exclude=WAYS)


def _came(figures: TuningFigures) -> dict[str, Any]:
    """What came of it: the data as it was read, and how far the run went."""
    return {
        "data_sha256": figures.data.sha256,
        "figures": figures.model_dump(mode="json", include={"steps", "epochs", "train_loss", "validation_loss"}),
        "setting": figures.setting.model_dump(
            mode="json", include={"devices", "batch_size", "micro_batch_size", "max_length", "precision", "packing"}
        ),
    }


def _result_file(session: Session, claim: Claim, blob: Blob) -> File:
    wanted = files.Wish(RESULT_FILE, Purpose.FINE_TUNE_RESULTS, None)
    return files.add(session, claim.tenant_id, wanted, blob=blob)
