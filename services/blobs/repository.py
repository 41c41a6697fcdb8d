"""Content that may have lost its last name, in SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

_ROW = "tenant_id = :tenant_id AND sha256 = :sha256"
_OLD = "since < clock_timestamp() - make_interval(secs => :grace_s)"
_AGAIN = "ON CONFLICT (tenant_id, sha256) DO UPDATE SET since = clock_timestamp()"

# In the order of the digests, so that two who forget the same ones do not wait for each other in a circle.
_FORGET = text(f"""
INSERT INTO garbage (tenant_id, sha256)
SELECT DISTINCT CAST(:tenant_id AS uuid), digest FROM unnest(:digests) digest ORDER BY digest {_AGAIN}
""").bindparams(bindparam("digests", type_=ARRAY(Text)))

_KEEP = text(f"""
WITH before AS (SELECT since FROM garbage WHERE {_ROW})
INSERT INTO garbage (tenant_id, sha256) VALUES (:tenant_id, :sha256) {_AGAIN}
RETURNING EXISTS (SELECT FROM before WHERE {_OLD})
""")

_DUE = text(f"SELECT tenant_id, sha256 FROM garbage WHERE {_OLD} ORDER BY since LIMIT :limit")
_LOCK = text(f"SELECT 1 FROM garbage WHERE {_ROW} AND {_OLD} FOR UPDATE SKIP LOCKED")
_DROP = text(f"DELETE FROM garbage WHERE {_ROW}")
_POSTPONE = text(f"UPDATE garbage SET since = clock_timestamp() WHERE {_ROW}")

# A name that lasts tells us when it goes (`forget`). A job that has yet to read a deleted file does not, when it ends.
_USE = text("""
SELECT
  EXISTS (SELECT FROM files WHERE tenant_id = :tenant_id AND sha256 = :sha256 AND deleted_at IS NULL)
  OR EXISTS (SELECT FROM upload_parts p JOIN uploads u ON u.id = p.upload_id
    WHERE p.tenant_id = :tenant_id AND p.sha256 = :sha256 AND u.status = 'pending')
  OR EXISTS (SELECT FROM artifacts WHERE tenant_id = :tenant_id AND sha256 = :sha256)
  OR EXISTS (SELECT FROM artifacts WHERE tenant_id = :tenant_id AND manifest @> CAST(:named AS jsonb))
  OR EXISTS (SELECT FROM checkpoints WHERE tenant_id = :tenant_id AND manifest @> CAST(:named AS jsonb))
  OR EXISTS (SELECT FROM models WHERE tenant_id = :tenant_id AND manifest @> CAST(:named AS jsonb)) AS named,
  EXISTS (SELECT FROM files f WHERE f.tenant_id = :tenant_id AND f.sha256 = :sha256 AND EXISTS (
    SELECT FROM jobs j WHERE j.finished_at IS NULL AND j.id IN (
      SELECT job_id FROM inference_jobs WHERE input_file_id = f.id
      UNION ALL SELECT job_id FROM batch_jobs WHERE input_file_id = f.id
      UNION ALL SELECT job_id FROM document_set_files WHERE file_id = f.id
      UNION ALL SELECT job_id FROM compression_files WHERE file_id = f.id
      UNION ALL SELECT job_id FROM tuning_files WHERE file_id = f.id))) AS awaited
""")


@dataclass(frozen=True)
class Candidate:
    """Content of a tenant that may be nobody's."""

    tenant_id: UUID
    sha256: str


@dataclass(frozen=True)
class Use:
    """Who still names a content."""

    named: bool  #: a file, a part of an upload, an artifact, a checkpoint or a model
    awaited: bool  #: a job that has not ended, through a file that is deleted


def forget(session: Session, tenant_id: UUID, digests: Sequence[str]) -> None:
    """Note that contents have lost a name."""
    session.execute(_FORGET, {"tenant_id": tenant_id, "digests": list(digests)})


def keep(session: Session, candidate: Candidate, *, grace_s: float) -> bool:
    """Note that content is being stored, after a removal in progress; whether one was due."""
    return bool(session.scalar(_KEEP, {**vars(candidate), "grace_s": grace_s}))


def due(session: Session, *, grace_s: float, limit: int) -> list[Candidate]:
    """Contents that nobody has stored and no name has left for `grace_s`, the oldest first."""
    rows = session.execute(_DUE, {"grace_s": grace_s, "limit": limit})
    return [Candidate(**row) for row in rows.mappings()]


def lock(session: Session, candidate: Candidate, *, grace_s: float) -> bool:
    """Hold a candidate until the transaction ends; False when it is none any more or somebody else holds it."""
    return session.scalar(_LOCK, {**vars(candidate), "grace_s": grace_s}) is not None


def use(session: Session, candidate: Candidate) -> Use:
    """Who names a candidate now."""
    named = orjson.dumps([{"sha256": candidate.sha256}]).decode()
    return Use(*session.execute(_USE, {**vars(candidate), "named": named}).one())


def drop(session: Session, candidate: Candidate) -> None:
    """It is no candidate any more: named, or gone."""
    session.execute(_DROP, vars(candidate))


def postpone(session: Session, candidate: Candidate) -> None:
    """Look again after another grace."""
    session.execute(_POSTPONE, vars(candidate))
