"""The document set resource, its records, and domain packs; times are Unix seconds, as OpenAI spells them."""

from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field

from gateway.schemas.common import Out, unix_seconds
from gateway.schemas.jobs import JobErrorOut, WebhookOut
from services.documents.records import Status
from services.documents.views import Counts, Record, SetStatus, SetView, public_id
from shared.contracts.documents import DocumentSetSpec, DocumentUsage, Flag, Value
from shared.contracts.jobs import JobRequest, Metadata, Moment, Name, WebhookTarget
from shared.db.models import Artifact


class DocumentSetRequest(DocumentSetSpec):
    """The body of `POST /v1/document_sets`: what to do, and how the job that does it is to be treated."""

    gpu_class: Name = Field("auto", description="a GPU class, or `auto`: the cheapest that fits")
    priority: int = Field(5, ge=0, le=9, strict=True, description="9 goes first")
    deadline: Moment | None = Field(None, description="RFC 3339 with offset: expired if not done by then")
    metadata: Metadata = Field(default_factory=dict, description="up to 16 pairs, returned as given")
    webhook: WebhookTarget | None = Field(None, description="where the job's events are delivered, signed")

    def as_job(self) -> JobRequest:
        """The job that this is."""
        given = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        spec = {name: given[name] for name in DocumentSetSpec.model_fields if name in given}
        return JobRequest(
            kind="document_set",
            spec=spec,
            gpu_class=self.gpu_class,
            priority=self.priority,
            deadline=self.deadline,
            metadata=self.metadata,
            webhook=self.webhook,
        )


class DocumentCountsOut(Out):
    """Documents of a set, as of now. When it has ended, `completed` and `failed` make up the total."""

    total: int
    completed: int = Field(description="with a result, flagged ones among them")
    flagged: int = Field(description="with a result that a person should look at")
    failed: int = Field(description="that cannot be read; in the end also those that nobody got to")

    @classmethod
    def of(cls, counts: Counts) -> Self:
        """The counts of a set."""
        return cls(total=counts.total, completed=counts.completed, flagged=counts.flagged, failed=counts.failed)


class DocumentSetUsageOut(Out):
    """What the calls for a set consumed so far."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    gpu_seconds: float


class DocumentArtifactOut(Out):
    """A table or a report of a set that has ended."""

    id: UUID
    name: str
    media_type: str
    bytes: int
    sha256: str
    url: str = Field(description="path of the bytes")

    @classmethod
    def of(cls, row: Artifact) -> Self:
        """The artifact of a row."""
        return cls(
            id=row.id,
            name=row.name,
            media_type=row.media_type,
            bytes=row.bytes,
            sha256=row.sha256,
            url=f"/v1/artifacts/{row.id}/content",
        )


class DocumentSetOut(Out):
    """Documents that a model reads. Completed, failed, cancelled and expired sets never change again."""

    id: str
    object: Literal["document_set"] = "document_set"
    job_id: UUID = Field(description="the job that it is: `/v1/jobs/{job_id}` has its events, logs and plan")
    status: SetStatus
    model: str
    operation: dict[str, Any]
    pack: str | None = Field(description="name of its domain pack")
    counts: DocumentCountsOut
    pages: int = Field(description="of the completed documents")
    created_at: int
    in_progress_at: int | None
    finished_at: int | None
    expires_at: int | None = Field(description="its deadline")
    artifacts: list[DocumentArtifactOut]
    usage: DocumentSetUsageOut
    cost: float = Field(description="GPU-hours times the class's price")
    error: JobErrorOut | None
    metadata: dict[str, str]
    webhook: WebhookOut | None

    @classmethod
    def of(cls, shown: SetView, *, secret: str | None = None) -> Self:
        """The resource of a set; `secret` is the webhook secret that its submit made."""
        job, family, spec = shown.job, shown.view.family, shown.job.spec
        assert family is not None
        return cls(
            id=public_id(job.id),
            job_id=job.id,
            status=shown.status,
            model=spec["model"],
            operation=spec["operation"],
            pack=spec["pack"] and spec["pack"]["name"],
            counts=DocumentCountsOut.of(shown.counts),
            pages=shown.counts.pages,
            created_at=int(job.created_at.timestamp()),
            in_progress_at=unix_seconds(job.started_at),
            finished_at=unix_seconds(job.finished_at),
            expires_at=unix_seconds(job.deadline_at),
            artifacts=[DocumentArtifactOut.of(each) for each in shown.view.artifacts],
            usage=DocumentSetUsageOut(
                prompt_tokens=family.prompt_tokens,
                completion_tokens=family.completion_tokens,
                total_tokens=family.prompt_tokens + family.completion_tokens,
                gpu_seconds=family.gpu_seconds,
            ),
            cost=family.cost,
            error=None if job.error is None else JobErrorOut.of(job.error),
            metadata=job.meta,
            webhook=None if job.webhook is None else WebhookOut(**job.webhook, secret=secret),
        )


class DocumentRecordOut(Out):
    """What became of one document: a line of `results.jsonl`."""

    id: str = Field(description="its index; `after` takes it")
    object: Literal["document_set.record"] = "document_set.record"
    index: int = Field(description="place in the request's files, from 0")
    status: Status
    file_id: str
    filename: str
    format: str | None = Field(description="pdf, docx, xlsx, html, markdown or text")
    pages: int | None
    chunks: int | None
    result: Any = Field(description="extract: the object; classify: label or labels; summarize, custom: text or JSON")
    values: list[Value] = Field(description="each value with its page, its quote, its check and its flags")
    flags: list[Flag] = Field(description="of the document as a whole")
    repaired: int | None = Field(description="answers that were asked for a second time")
    ocr_pages: int | None
    usage: DocumentUsage | None
    error: JobErrorOut | None

    @classmethod
    def of(cls, record: Record) -> Self:
        """The resource of a record."""
        found, error = record.result, record.error
        return cls(
            id=str(record.index),
            index=record.index,
            status=record.status,
            file_id=record.document.file_id,
            filename=record.document.filename,
            format=None if found is None else found.format,
            pages=None if found is None else found.pages,
            chunks=None if found is None else found.chunks,
            result=None if found is None else found.result,
            values=list(found.values) if found else [],
            flags=list(found.flags) if found else [],
            repaired=None if found is None else found.repaired,
            ocr_pages=None if found is None else found.ocr_pages,
            usage=None if found is None else found.usage,
            error=None if error is None else JobErrorOut.of(error.model_dump(mode="json")),
        )
