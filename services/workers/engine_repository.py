"""Engines and what was measured of them, in SQL. Who changes what callers can reach says so on channel `engines`."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from uuid import UUID

import orjson
from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.workers.types import Figures, LoadedEngine, Measure
from shared.db.models import Engine, EngineMeasure

CHANNEL = "engines"  #: payload: the digest of the model whose engines changed

# of workers that live by the database's clock
_ENGINES = text("""
SELECT e.* FROM engines e JOIN workers w ON w.id = e.worker_id
WHERE w.stopped_at IS NULL AND w.last_seen_at > clock_timestamp() - make_interval(secs => :live_s)
  AND (CAST(:model_digest AS text) IS NULL OR e.model_digest = :model_digest)
  AND (CAST(:worker_id AS uuid) IS NULL OR e.worker_id = :worker_id)
ORDER BY e.id
""")

_NOTE = text("""
UPDATE engines e SET in_flight = n.in_flight, stats = n.stats
FROM jsonb_to_recordset(CAST(:noted AS jsonb)) AS n(id uuid, in_flight int, stats jsonb) WHERE e.id = n.id
""")


def put(session: Session, engine: LoadedEngine) -> None:
    """Write or update an engine's row; `ready_at` is set when it is first seen ready."""
    shown = (engine.state, list(engine.adapters), list(engine.modes))
    before = session.execute(select(Engine.state, Engine.adapters, Engine.modes).where(Engine.id == engine.id)).first()
    values = {
        "worker_id": engine.worker_id,
        "model_digest": engine.model_digest,
        "kind": engine.kind,
        "address": engine.address,
        "devices": list(engine.devices),
        "tensor_parallel": engine.tensor_parallel,
        "modes": list(engine.modes),
        "adapters": list(engine.adapters),
        "token": engine.token,
        "stats": asdict(engine.figures),
        "state": engine.state,
        "max_in_flight": engine.max_in_flight,
        "in_flight": engine.in_flight,
        "pid": engine.pid,
        "error": engine.error,
    }
    ready = text("CASE WHEN excluded.state = 'ready' THEN COALESCE(engines.ready_at, clock_timestamp()) END")
    born = text("clock_timestamp()") if engine.state == "ready" else None
    session.execute(
        insert(Engine)
        .values({"id": engine.id, "ready_at": born, **values})
        .on_conflict_do_update(index_elements=["id"], set_={**values, "ready_at": ready})
    )
    if before is None or tuple(before) != shown:
        _announce(session, [engine.model_digest])


def note(session: Session, figures: Sequence[tuple[UUID, Figures]]) -> None:
    """Write the newest figures of engines, in one statement; those without a row are passed over."""
    noted = [{"id": str(engine_id), "in_flight": each.in_flight, "stats": asdict(each)} for engine_id, each in figures]
    session.execute(_NOTE, {"noted": orjson.dumps(noted).decode()})


def remove(session: Session, engine_id: UUID) -> None:
    """Forget one engine."""
    _announce(session, session.scalars(delete(Engine).where(Engine.id == engine_id).returning(Engine.model_digest)))


def forget(session: Session, workers: Sequence[UUID]) -> None:
    """Forget the engines of workers that have ended."""
    gone = session.scalars(delete(Engine).where(Engine.worker_id.in_(workers)).returning(Engine.model_digest))
    _announce(session, gone)


def engines(
    session: Session, *, live_s: float, model_digest: str | None = None, worker_id: UUID | None = None
) -> list[Engine]:
    """Engines of live workers, oldest first; of one model or one worker when asked."""
    values = {"live_s": live_s, "model_digest": model_digest, "worker_id": worker_id}
    return list(session.scalars(select(Engine).from_statement(_ENGINES), values))


def remember(session: Session, measure: Measure) -> None:
    """Keep what an engine took; the newest measure counts."""
    values = {**asdict(measure), "measured_at": func.clock_timestamp()}
    keys = [column.name for column in EngineMeasure.__table__.primary_key]
    session.execute(insert(EngineMeasure).values(values).on_conflict_do_update(index_elements=keys, set_=values))


def measure(
    session: Session, model_digest: str, *, gpu_class: str, kind: str, tensor_parallel: int
) -> EngineMeasure | None:
    """What such an engine took the last time."""
    return session.get(EngineMeasure, (model_digest, gpu_class, kind, tensor_parallel))


def _announce(session: Session, digests: Iterable[str]) -> None:
    for digest in set(digests):
        session.execute(select(func.pg_notify(CHANNEL, digest)))
