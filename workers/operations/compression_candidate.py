"""A checkpoint that is stored and not registered: what an engine needs to serve it already."""

from pathlib import Path

from services.catalog.register import Staged
from services.inference.models import ModelFacts, facts
from shared.contracts.serving import Serving
from shared.db.models import Model
from shared.ids import new_id
from workers.operations.compression_speed import Speed, measure, vocabulary_of
from workers.runtime.host import Host
from workers.runtime.served import ServedModel
from workers.runtime.work import Work


async def time_candidate(work: Work, host: Host, staged: Staged, checkpoint: Path) -> Speed:
    """Time a checkpoint on the engine that will serve it: it is known by the digest of the version to come."""
    found = facts(Model(id=new_id(), **staged.values))
    model = _served(host, staged, found, checkpoint)
    return await measure(work, host, model, facts=found, vocabulary=vocabulary_of(staged.values["config"]))


def _served(host: Host, staged: Staged, found: ModelFacts, checkpoint: Path) -> ServedModel:
    placed = host.folders.models / staged.digest

    def fetch() -> Path:
        return placed if placed.exists() else checkpoint  # it moves there with the end of the job

    return ServedModel(
        digest=staged.digest,
        name=found.name,
        fetch=fetch,
        serving=Serving.model_validate(staged.values["serving"]),
        weight_bytes=found.weight_bytes,
        parameters=found.parameters,
        dtype=found.dtype,
        kv_bytes_per_token=found.kv_bytes_per_token,
        kv_heads=found.kv_heads,
        context_length=int(staged.values["context_length"]),
    )
