"""Models and their aliases in SQL."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, exists, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.orm import Session

from shared.db.models import Model, ModelAlias

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")

_REPLICAS = text("""
SELECT e.model_digest, e.adapters, e.stats -> 'adapter_errors' AS errors, w.gpu_class
FROM engines e JOIN workers w ON w.id = e.worker_id
WHERE e.model_digest = ANY(CAST(:digests AS text[])) AND e.state IN ('ready', 'busy') AND e.stopped_at IS NULL
  AND w.stopped_at IS NULL AND w.last_seen_at > clock_timestamp() - make_interval(secs => 30)
ORDER BY w.gpu_class
""")

_USES = text("""
SELECT 'jobs' AS what, count(*) AS number FROM inference_jobs i JOIN jobs j ON j.id = i.job_id
  WHERE i.model_id = ANY(:ids) AND j.tenant_id = :tenant_id AND j.state IN ('queued', 'running')
UNION ALL SELECT 'calibrations, quantizations and evaluations', count(*) FROM compression_jobs c
  JOIN jobs j ON j.id = c.job_id WHERE (c.model_id = ANY(:ids) OR c.baseline_id = ANY(:ids))
    AND j.tenant_id = :tenant_id AND j.state IN ('queued', 'running')
UNION ALL SELECT 'tunings and merges', count(*) FROM tuning_jobs t JOIN jobs j ON j.id = t.job_id
  WHERE t.model_id = ANY(:ids) AND j.tenant_id = :tenant_id AND j.state IN ('queued', 'running')
UNION ALL SELECT 'imports', count(*) FROM jobs j JOIN models m ON m.id = ANY(:ids)
  WHERE j.tenant_id = :tenant_id AND j.kind = 'import_model' AND j.state IN ('queued', 'running')
    AND j.spec ->> 'base_model' = m.name || '@' || m.version
UNION ALL SELECT 'aliases', count(*) FROM model_aliases WHERE model_id = ANY(:ids)
UNION ALL SELECT 'adapters', count(*) FROM models WHERE base_id = ANY(:ids) AND deleted_at IS NULL
UNION ALL SELECT 'waiting calls', count(*) FROM demands
  WHERE model_id = ANY(:ids) AND NOT ahead AND wanted_at > clock_timestamp() - make_interval(secs => :demand_s)
""")


# workers look which adapters the engines of this base should have
_ANNOUNCE = text("""
SELECT pg_notify('adapters', digest) FROM (
  SELECT DISTINCT b.digest FROM models m JOIN models b ON b.id = m.base_id WHERE m.id = ANY(:ids)) bases
""")


@dataclass(frozen=True)
class Replicas:
    """Ready engines of live workers that have a model loaded: how many, and the classes they run on."""

    count: int = 0
    gpu_classes: tuple[str, ...] = ()
    error: Mapping[str, Any] | None = None  #: why an engine of its base could not load it, of an adapter


def named(session: Session, tenant_id: UUID, name: str) -> Model | None:
    """The newest version of a tenant's model, or the version that an alias of that name stands for."""
    alias = select(ModelAlias.model_id).where(ModelAlias.tenant_id == tenant_id, ModelAlias.name == name)
    query = _living(tenant_id).where(or_(Model.name == name, Model.id == alias.scalar_subquery()))
    return session.scalar(query.order_by(Model.version.desc()).limit(1))


def version(session: Session, tenant_id: UUID, name: str, number: int) -> Model | None:
    """One version of a tenant's model."""
    return session.scalar(_living(tenant_id).where(Model.name == name, Model.version == number))


def versions(session: Session, tenant_id: UUID, name: str) -> Sequence[Model]:
    """All versions of a tenant's model, newest first."""
    return session.scalars(_living(tenant_id).where(Model.name == name).order_by(Model.version.desc())).all()


def living(session: Session, tenant_id: UUID, id: UUID) -> Model | None:
    """One version of a tenant's models that is not deleted."""
    return session.scalar(_living(tenant_id).where(Model.id == id))


def get(session: Session, tenant_id: UUID, id: UUID) -> Model | None:
    """One version of a tenant's models, deleted or not."""
    return session.scalar(select(Model).where(Model.tenant_id == tenant_id, Model.id == id))


def page(session: Session, tenant_id: UUID, *, limit: int) -> Sequence[Model]:
    """The newest version of each of a tenant's models, by name."""
    query = _living(tenant_id).ext(distinct_on(Model.name))
    return session.scalars(query.order_by(Model.name, Model.version.desc()).limit(limit)).all()


def bases(session: Session, ids: Collection[UUID]) -> Sequence[Model]:
    """Versions that adapters belong to, deleted or not."""
    return session.scalars(select(Model).where(Model.id.in_(ids))).all() if ids else ()


def lock_name(session: Session, tenant_id: UUID, name: str) -> None:
    """Make whoever gives this name to a model or an alias wait for this transaction."""
    session.execute(_LOCK, {"name": f"{tenant_id}/{name}"})


def is_model(session: Session, tenant_id: UUID, name: str) -> bool:
    """Whether a model of a tenant has this name."""
    return bool(session.scalar(select(exists(_living(tenant_id).where(Model.name == name)))))


def is_alias(session: Session, tenant_id: UUID, name: str) -> bool:
    """Whether an alias of a tenant has this name."""
    return session.get(ModelAlias, (tenant_id, name)) is not None


def add(session: Session, model: Model) -> Model:
    """Write the next version of a model, or find the one with the same content; the name is locked."""
    same = session.scalar(
        _living(model.tenant_id)
        .where(
            Model.name == model.name, Model.digest == model.digest, Model.base_id.is_not_distinct_from(model.base_id)
        )
        .order_by(Model.version.desc())
        .limit(1)
    )
    if same is not None:
        return same
    newest = select(func.coalesce(func.max(Model.version), 0)).where(
        Model.tenant_id == model.tenant_id, Model.name == model.name
    )
    model.version = session.execute(newest).scalar_one() + 1
    session.add(model)
    session.flush()
    session.refresh(model)
    _announce(session, [model.id])
    return model


def locked(session: Session, model: Model) -> Model:
    """The row as it is now, kept as it is until this transaction ends."""
    session.refresh(model, with_for_update=True)
    return model


def lock_all(session: Session, ids: Sequence[UUID]) -> list[UUID]:
    """Keep whoever is about to use these versions waiting; their ids. A job's row locks its model's key."""
    query = select(Model.id).where(Model.id.in_(ids)).order_by(Model.id).with_for_update()
    return list(session.scalars(query))


def uses(session: Session, tenant_id: UUID, ids: Sequence[UUID], *, demand_s: float) -> dict[str, int]:
    """What needs versions now: a count for each kind of user that there is."""
    values = {"tenant_id": tenant_id, "ids": list(ids), "demand_s": demand_s}
    return {row.what: row.number for row in session.execute(_USES, values) if row.number}


def mark_deleted(session: Session, ids: Sequence[UUID]) -> None:
    """Hide versions for ever."""
    session.execute(update(Model).where(Model.id.in_(ids)).values(deleted_at=func.clock_timestamp()))
    _announce(session, ids)


def point(session: Session, tenant_id: UUID, name: str, model_id: UUID) -> ModelAlias:
    """Let an alias stand for a version."""
    values = {"tenant_id": tenant_id, "name": name, "model_id": model_id}
    write = insert(ModelAlias).values(values)
    moved = write.on_conflict_do_update(index_elements=["tenant_id", "name"], set_={"model_id": model_id})
    return session.scalars(moved.returning(ModelAlias), execution_options={"populate_existing": True}).one()


def unpoint(session: Session, tenant_id: UUID, name: str) -> bool:
    """Forget an alias; whether there was one."""
    gone = delete(ModelAlias).where(ModelAlias.tenant_id == tenant_id, ModelAlias.name == name)
    return session.scalar(gone.returning(ModelAlias.name)) is not None


def aliases(session: Session, tenant_id: UUID) -> list[tuple[str, Model]]:
    """A tenant's aliases by name, each with its version."""
    query = select(ModelAlias.name, Model).join(Model, Model.id == ModelAlias.model_id)
    rows = session.execute(query.where(ModelAlias.tenant_id == tenant_id).order_by(ModelAlias.name))
    return [(name, model) for name, model in rows]


def aliases_of(session: Session, ids: Collection[UUID]) -> Mapping[UUID, list[str]]:
    """The aliases of versions, by id."""
    query = select(ModelAlias.model_id, ModelAlias.name).where(ModelAlias.model_id.in_(ids)).order_by(ModelAlias.name)
    found = defaultdict[UUID, list[str]](list)
    for model_id, name in session.execute(query):
        found[model_id].append(name)
    return found


def replicas(session: Session, served: Collection[tuple[str, str | None]]) -> dict[tuple[str, str | None], Replicas]:
    """Ready engines for each (base digest, adapter digest or None)."""
    rows: Sequence[Any] = session.execute(_REPLICAS, {"digests": sorted({digest for digest, _ in served})}).all()
    found = {}
    for digest, adapter in set(served):
        engines = [row for row in rows if row.model_digest == digest]
        classes = [row.gpu_class for row in engines if adapter is None or adapter in row.adapters]
        errors = [row.errors[adapter] for row in engines if adapter in (row.errors or {})]
        found[digest, adapter] = Replicas(len(classes), tuple(dict.fromkeys(classes)), next(iter(errors), None))
    return found


def _announce(session: Session, ids: Sequence[UUID]) -> None:
    """Say which bases have other adapters when this transaction is committed."""
    session.execute(_ANNOUNCE, {"ids": list(ids)})


def _living(tenant_id: UUID) -> Select[Model]:
    return select(Model).where(Model.tenant_id == tenant_id, Model.deleted_at.is_(None))
