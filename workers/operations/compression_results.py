"""What a forge of compression has made, on its way into the store and the job's last transaction."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.jobs import lifecycle
from services.jobs.types import Claim
from shared import failpoints
from shared.contracts.evaluation import EvaluationFigures, Gate, Verdict, judge
from shared.contracts.jobs import JobError
from shared.db.models import Artifact
from shared.errors import DatabaseUnavailable
from shared.manifest import Manifest
from workers.runtime import forge_files
from workers.runtime.forge import Made
from workers.runtime.forge_files import Tell
from workers.runtime.host import Host
from workers.runtime.work import Work

PNG = "image/png"
TOLD = 2000  #: characters of an error's detail


@dataclass(frozen=True)
class Output:
    """A result: a file or folder of this host, bytes, or files that are stored already."""

    name: str
    media_type: str
    content: Path | bytes | Manifest


async def store(work: Work, host: Host, outputs: Sequence[Output]) -> list[NewArtifact]:
    """Store results, in their order; none of them has a row yet."""

    def upload(tell: Tell) -> list[NewArtifact]:
        return [_put(host, work.claim, output, position, tell) for position, output in enumerate(outputs)]

    stored = await forge_files.carry(host, upload)
    failpoints.hit("finish.after_upload")
    return stored


def _put(host: Host, claim: Claim, output: Output, position: int, tell: Tell) -> NewArtifact:  # noqa: PLR0917
    named: dict[str, Any] = {"name": output.name, "media_type": output.media_type, "position": position}
    if isinstance(output.content, Path):
        return forge_files.put(host.store, claim.tenant_id, output.content, tell=tell, **named)
    if isinstance(output.content, Manifest):
        return forge_files.listed(host.store, claim.tenant_id, output.content, **named)
    return NewArtifact(blob=host.store.put_bytes(claim.tenant_id, output.content), **named)


def keep(session: Session, claim: Claim, stored: Sequence[NewArtifact]) -> dict[str, Artifact]:
    """Write the rows of stored results, by name."""
    return {
        new.name: artifacts.add(session, new, tenant_id=claim.tenant_id, job_id=claim.job_id, attempt=claim.attempt)
        for new in stored
    }


def charts(made: Made, paths: Sequence[str]) -> dict[str, bytes]:
    """PNG files that a forge has drawn, by file name."""
    return {PurePosixPath(path).name: made.path(path).read_bytes() for path in paths}


def drawn(found: Mapping[str, bytes]) -> list[Output]:
    """Charts as results."""
    return [Output(name, PNG, content) for name, content in found.items()]


def verdict_of(gate: Gate | None, figures: EvaluationFigures | None) -> Verdict | None:
    """What a gate says; None where there is none."""
    return judge(gate, figures) if gate is not None and figures is not None else None


def not_met(verdict: Verdict) -> JobError:
    """The end of a job whose model does not pass."""
    detail = "; ".join(verdict.failures)[:TOLD]
    return JobError(code="gate_not_met", title="The model does not pass the gate", detail=detail)


async def say(work: Work, host: Host, *lines: str) -> None:
    """Lines of the job's log."""
    told = [("info", line) for line in lines]
    with suppress(DatabaseUnavailable):  # a log line is not worth waiting for
        await host.transactions.run(lambda session: lifecycle.add_logs(session, work.claim, told))
