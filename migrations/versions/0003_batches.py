"""Uploads, batches and document sets; lines that are run in another order than they came in."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
PENDING = sa.text("status = 'pending'")
PAGES = "CASE WHEN jsonb_typeof(output -> 'pages') = 'number' THEN (output ->> 'pages')::integer END"
FLAGGED = (
    'jsonb_path_exists(output, \'$."flags"[*]\'::jsonpath) OR jsonb_path_exists(output, \'$."values"[*]?'
    '(exists (@."flags"[*]) || @."check" starts with "violates:")\'::jsonpath)'
)


def upgrade() -> None:
    _lines()
    _files()
    op.create_table(
        "batch_jobs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("input_file_id", sa.Uuid(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("completion_window", sa.Text(), nullable=False),
        sa.Column("output_expires_s", sa.Integer(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("errors", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("finalizing_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("completed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_file_id", sa.Uuid(), nullable=True),
        sa.Column("error_file_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "completed >= 0 AND failed >= 0 AND completed + failed <= total"
            " AND (ended_at IS NULL OR completed + failed = total)",
            name=op.f("ck_batch_jobs_counts"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_batch_jobs_job_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_batch_jobs_tenant_id")),
        sa.ForeignKeyConstraint(["input_file_id"], ["files.id"], name=op.f("fk_batch_jobs_input_file_id")),
        sa.ForeignKeyConstraint(["output_file_id"], ["files.id"], name=op.f("fk_batch_jobs_output_file_id")),
        sa.ForeignKeyConstraint(["error_file_id"], ["files.id"], name=op.f("fk_batch_jobs_error_file_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_batch_jobs")),
    )
    op.create_index("ix_batch_jobs_input", "batch_jobs", ["input_file_id"])
    op.create_table(
        "document_set_files",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_document_set_files_job_id")),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_document_set_files_file_id")),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_document_set_files")),
    )
    op.create_index("ix_document_set_files_file", "document_set_files", ["file_id"])


def _lines() -> None:
    op.add_column("jobs", sa.Column("progress_failed", sa.BigInteger(), server_default="0", nullable=False))
    op.create_check_constraint(op.f("ck_jobs_progress"), "jobs", "progress_failed BETWEEN 0 AND progress_done")
    op.add_column("job_items", sa.Column("turn", sa.Integer(), nullable=True))
    # Recorded lines refuse every change, and their order matters to nobody any more.
    op.execute("ALTER TABLE job_items DISABLE TRIGGER USER")
    op.execute("UPDATE job_items SET turn = line_no")
    op.execute("ALTER TABLE job_items ENABLE TRIGGER USER")
    op.alter_column("job_items", "turn", nullable=False)
    op.drop_index("ix_job_items_pending", table_name="job_items")
    op.create_index("ix_job_items_pending", "job_items", ["job_id", "turn"], postgresql_where=PENDING)
    op.add_column("job_items", sa.Column("pages", sa.Integer(), sa.Computed(PAGES, persisted=True), nullable=True))
    op.add_column("job_items", sa.Column("flagged", sa.Boolean(), sa.Computed(FLAGGED, persisted=True), nullable=True))


def _files() -> None:
    op.create_index("ix_files_content", "files", ["tenant_id", "sha256"])
    op.create_index("ix_files_expiry", "files", ["expires_at"], postgresql_where=sa.text("deleted_at IS NULL"))
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("mime_type", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("file_expires_s", sa.Integer(), nullable=True),
        sa.Column("file_id", sa.Uuid(), nullable=True),
        sa.Column("completing_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.CheckConstraint("status IN ('pending','completed','cancelled','expired')", name=op.f("ck_uploads_status")),
        sa.CheckConstraint("(status = 'completed') = (file_id IS NOT NULL)", name=op.f("ck_uploads_file")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_uploads_tenant_id")),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_uploads_file_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index("ix_uploads_expiry", "uploads", ["expires_at"], postgresql_where=PENDING)
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name=op.f("fk_upload_parts_upload_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_parts")),
    )
    op.create_index("ix_upload_parts_upload", "upload_parts", ["upload_id"])
    op.create_index("ix_upload_parts_content", "upload_parts", ["tenant_id", "sha256"])
    op.create_table(
        "garbage",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "sha256", name=op.f("pk_garbage")),
    )
    op.create_index("ix_garbage_since", "garbage", ["since"])
    _names()


def _names() -> None:
    """Who names a content: asked before it is removed."""
    given = sa.text("input_file_id IS NOT NULL")
    op.create_index("ix_inference_jobs_input", "inference_jobs", ["input_file_id"], postgresql_where=given)
    op.create_index("ix_artifacts_content", "artifacts", ["tenant_id", "sha256"])
    for table in ("artifacts", "checkpoints"):
        ops = {"manifest": "jsonb_path_ops"}
        op.create_index(f"ix_{table}_manifest", table, ["manifest"], postgresql_using="gin", postgresql_ops=ops)


def downgrade() -> None:
    for table in ("document_set_files", "batch_jobs", "garbage", "upload_parts", "uploads"):
        op.drop_table(table)
    for table in ("artifacts", "checkpoints"):
        op.drop_index(f"ix_{table}_manifest", table_name=table)
    op.drop_index("ix_artifacts_content", table_name="artifacts")
    op.drop_index("ix_inference_jobs_input", table_name="inference_jobs")
    op.drop_index("ix_files_expiry", table_name="files")
    op.drop_index("ix_files_content", table_name="files")
    op.drop_index("ix_job_items_pending", table_name="job_items")
    op.create_index("ix_job_items_pending", "job_items", ["job_id", "line_no"], postgresql_where=PENDING)
    op.drop_column("job_items", "flagged")
    op.drop_column("job_items", "pages")
    op.drop_column("job_items", "turn")
    op.drop_constraint(op.f("ck_jobs_progress"), "jobs")
    op.drop_column("jobs", "progress_failed")
