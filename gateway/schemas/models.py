"""The model resource, as OpenAI spells it, with more of ours beside; and what registering one takes."""

from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field

from gateway.schemas.common import Out
from services.catalog.service import Shown
from services.inference.estimates import fits, memory
from services.inference.models import facts
from shared.contracts.jobs import Contract, Name
from shared.contracts.serving import Serving
from shared.db.models import Model


class AdapterOut(Out):
    """What a LoRA adapter is."""

    rank: int
    alpha: float
    target_modules: list[str]

    @classmethod
    def of(cls, row: Model) -> Self:
        """The adapter's part of a row."""
        modules = row.config.get("target_modules") or []
        named = [modules] if isinstance(modules, str) else sorted(map(str, modules))
        return cls(rank=row.config["r"], alpha=row.config["lora_alpha"], target_modules=named)


class ModelOut(Out):
    """A version of a model."""

    id: str = Field(description="what `model` takes: the name, or `name@version` of a version that is not the newest")
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    context_length: int
    parameters: int
    dtype: str
    bytes: int
    version: int
    version_id: UUID
    digest: str
    parent: str | None = Field(description="of an adapter: the version that it is served beside")
    adapter: AdapterOut | None
    aliases: list[str]
    ready_replicas: int = Field(description="engines that have it loaded")
    gpu_class: str | None = Field(description="the class of those engines")

    @classmethod
    def of(cls, known: Shown, *, owned_by: str, id: str | None = None) -> Self:
        """The resource of a row."""
        return cls(**_fields(known, owned_by=owned_by, id=id))


class MemoryOut(Out):
    """Bytes that a model takes at one dtype."""

    dtype: str
    weight_bytes: int
    kv_bytes_per_token: int
    context_bytes: int = Field(description="KV cache of one sequence as long as the context")


class FitOut(Out):
    """A GPU class that holds a model."""

    gpu_class: str
    devices: int
    dtype: str | None
    memory_bytes: int
    price_per_hour: float


class ModelDetail(ModelOut):
    """A version of a model with everything that is known of it."""

    serving: dict[str, Any] = Field(description="options that were chosen; the rest is the worker's default")
    source: dict[str, Any]
    loading_error: dict[str, Any] | None = Field(
        description="of an adapter: why an engine of its base does not load it; it is tried again"
    )
    memory: list[MemoryOut]
    gpu_classes: list[FitOut] = Field(description="classes that hold it with a KV cache, cheapest first")

    @classmethod
    def of(cls, known: Shown, *, owned_by: str, id: str | None = None) -> Self:
        """The resource of a row."""
        figures = facts(known.row, known.base)
        return cls(
            **_fields(known, owned_by=owned_by, id=id),
            serving=(known.base or known.row).serving,
            source=known.row.source,
            loading_error=None if known.replicas.error is None else dict(known.replicas.error),
            memory=[MemoryOut.model_validate(each, from_attributes=True) for each in memory(figures)],
            gpu_classes=[FitOut.model_validate(each, from_attributes=True) for each in fits(figures)],
        )


class ModelList(Out):
    """All models, on one page, as OpenAI's clients expect."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class ModelDeleted(Out):
    """A model that is gone."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class ModelChange(Contract):
    """What `PATCH` may change. Options of `serving` that are left out stay; null is the worker's default."""

    serving: Serving | None = None
    alias: Name | None = Field(None, description="another name that stands for this version from now on")


class AliasRequest(Contract):
    """What an alias is to stand for."""

    model: Name = Field(description="a name (its newest version now), `name@version`, or an id")


class AliasOut(Out):
    """Another name for one version."""

    id: str = Field(description="the alias")
    object: Literal["model_alias"] = "model_alias"
    model: str = Field(description="`name@version`")
    version_id: UUID

    @classmethod
    def of(cls, alias: str, row: Model) -> Self:
        """The resource of an alias."""
        return cls(id=alias, model=versioned(row), version_id=row.id)


class AliasList(Out):
    """All aliases, on one page."""

    object: Literal["list"] = "list"
    data: list[AliasOut]


class AliasDeleted(Out):
    """An alias that is gone."""

    id: str
    object: Literal["model_alias"] = "model_alias"
    deleted: Literal[True] = True


def versioned(row: Model) -> str:
    """`name@version`."""
    return f"{row.name}@{row.version}"


def _fields(known: Shown, *, owned_by: str, id: str | None) -> dict[str, Any]:
    row, base = known.row, known.base
    return {
        "id": id or row.name,
        "created": int(row.created_at.timestamp()),
        "owned_by": owned_by,
        "context_length": row.context_length,
        "parameters": row.parameters,
        "dtype": row.dtype,
        "bytes": row.bytes,
        "version": row.version,
        "version_id": row.id,
        "digest": row.digest,
        "parent": versioned(base) if base else None,
        "adapter": AdapterOut.of(row) if base else None,
        "aliases": list(known.aliases),
        "ready_replicas": known.replicas.count,
        "gpu_class": next(iter(known.replicas.gpu_classes), None),
    }
