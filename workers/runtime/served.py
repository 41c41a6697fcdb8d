"""What an engine is asked to serve: a model version, perhaps with an adapter, and how its files get onto this host."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

from services.catalog.files import materialise
from services.inference.service import ServedModel as StoredModel
from shared.contracts.serving import Serving
from shared.manifest import Manifest
from shared.storage import Store

DEFAULTS: Final = Serving()


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, served beside its base under its digest. `fetch` blocks."""

    digest: str
    name: str
    fetch: Callable[[], Path]


@dataclass(frozen=True)
class ServedModel:
    """A base model. `fetch` blocks. Figures that nobody knows (of an adopted engine) are 0."""

    digest: str
    name: str
    fetch: Callable[[], Path]
    serving: Serving = DEFAULTS
    adapter: Adapter | None = None
    weight_bytes: int = 0  #: of the files
    parameters: int = 0
    dtype: str = "bf16"  #: of the files, as the class table spells it
    kv_bytes_per_token: int = 0  #: on a GPU
    kv_heads: int = 1  #: tensor parallelism must divide it
    context_length: int = 0


def served(model: StoredModel, *, store: Store, models: Path) -> ServedModel:
    """A stored model as engines know it; its files go below `models`, once."""

    def fetching(manifest: Manifest, tenant_id: UUID) -> Callable[[], Path]:
        return partial(materialise, store, tenant_id, manifest, models)

    own = model.adapter
    return ServedModel(
        digest=model.digest,
        name=model.name,
        fetch=fetching(model.manifest, model.tenant_id),
        serving=model.serving,
        adapter=Adapter(own.digest, own.name, fetching(own.manifest, model.tenant_id)) if own else None,
        weight_bytes=model.bytes,
        parameters=model.parameters,
        dtype=model.dtype,
        kv_bytes_per_token=model.kv_bytes_per_token,
        kv_heads=model.kv_heads,
        context_length=model.context_length,
    )
