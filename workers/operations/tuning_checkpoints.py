"""Checkpoints of a tuning: the newest few and the best stay, and where that is asked for each answers as a model."""

from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import files as model_files
from services.catalog.register import Staged, stage, write
from services.catalog.rules import NameTaken
from services.catalog.tree import FolderTree
from services.jobs.types import Claim
from services.tuning import finishing, retention
from services.tuning.orders import Material
from shared.contracts.tuning_orders import MODEL_FOLDER
from shared.errors import ModelyardError, Unavailable
from shared.manifest import Manifest
from shared.telemetry import logger
from workers.runtime.checkpoints import Policy, Register, Written
from workers.runtime.forge_files import Tell
from workers.runtime.host import Host

log = logger(__name__)


def policy(host: Host, material: Material) -> Policy:
    """What becomes of the checkpoints of a run."""
    keep = material.tuning.checkpoints.keep

    def retire(session: Session, claim: Claim) -> None:
        retention.retire(session, claim, keep=keep)

    if not material.tuning.checkpoint_models:
        return Policy(retire=retire)
    models = _Models(host, material)
    return Policy(stage=models.stage, retire=retire, stored=models.place)


def place(host: Host, folder: Path, staged: Staged) -> None:
    """Put a version's files where engines look for them: nobody has to fetch what was made here."""
    try:
        model_files.adopt(folder, Manifest.of_json(staged.values["manifest"]), host.folders.models)
    except OSError as error:  # engines fetch it then
        log.warning("model was not placed", extra={"model": staged.digest, "why": str(error)})


class _Models:
    """Versions of checkpoints. What cannot be one costs a line in the worker's log: the checkpoint itself is well."""

    def __init__(self, host: Host, material: Material) -> None:
        self._host = host
        self._material = material
        self._staged: dict[Path, Staged] = {}

    def stage(self, written: Written, tell: Tell) -> Register | None:
        store, tenant_id = self._host.store, self._material.tenant_id
        tree = FolderTree(written.folder / MODEL_FOLDER, store, tenant_id)
        try:
            staged = stage(
                store, tenant_id, tree, wish=finishing.checkpoint_wish(self._material, step=written.step), tell=tell
            )
        except Unavailable:
            raise
        except ModelyardError as error:
            log.warning("checkpoint is no model", extra={"job": str(self._material.job_id), "why": error.message})
            return None
        self._staged[written.folder] = staged
        return lambda session: self._register(session, staged)

    def place(self, written: Written) -> None:
        staged = self._staged.pop(written.folder, None)
        if staged is not None:
            place(self._host, written.folder / MODEL_FOLDER, staged)

    def _register(self, session: Session, staged: Staged) -> UUID | None:
        try:
            return write(session, staged).id
        except NameTaken as error:
            log.warning("checkpoint is no model", extra={"job": str(self._material.job_id), "why": error.message})
            return None
