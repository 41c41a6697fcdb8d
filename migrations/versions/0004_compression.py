"""Calibrations, quantizations and evaluations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
COMPARED = sa.text("baseline_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "compression_jobs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("baseline_id", sa.Uuid(), nullable=True),
        sa.Column("calibration_id", sa.Uuid(), nullable=True),
        sa.Column("result_model_id", sa.Uuid(), nullable=True),
        sa.Column("artifact_id", sa.Uuid(), nullable=True),
        sa.Column("evaluation_id", sa.Uuid(), nullable=True),
        *_references("compression_jobs", "jobs.id", "job_id"),
        *_references("compression_jobs", "models.id", "model_id", "baseline_id", "result_model_id"),
        *_references("compression_jobs", "artifacts.id", "artifact_id"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_compression_jobs")),
    )
    op.create_index("ix_compression_jobs_model", "compression_jobs", ["model_id"])
    op.create_index("ix_compression_jobs_baseline", "compression_jobs", ["baseline_id"], postgresql_where=COMPARED)
    op.create_table(
        "compression_files",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        *_references("compression_files", "jobs.id", "job_id"),
        *_references("compression_files", "files.id", "file_id"),
        sa.PrimaryKeyConstraint("job_id", "file_id", name=op.f("pk_compression_files")),
    )
    op.create_index("ix_compression_files_file", "compression_files", ["file_id"])
    _calibrations()
    _evaluations()


def _calibrations() -> None:
    op.create_table(
        "calibrations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("artifact_id", sa.Uuid(), nullable=False),
        sa.Column("report_id", sa.Uuid(), nullable=True),
        sa.Column("spec", _json(), nullable=False),
        sa.Column("facts", _json(), nullable=False),
        sa.Column("recommendation", _json(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        *_references("calibrations", "tenants.id", "tenant_id"),
        *_references("calibrations", "jobs.id", "job_id"),
        *_references("calibrations", "models.id", "model_id"),
        *_references("calibrations", "artifacts.id", "artifact_id", "report_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calibrations")),
        sa.UniqueConstraint("tenant_id", "key", name=op.f("uq_calibrations_tenant_id_key")),
    )
    op.create_index("ix_calibrations_list", "calibrations", ["tenant_id", sa.text("id DESC")])
    op.create_index("ix_calibrations_model", "calibrations", ["model_id"])


def _evaluations() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=True),
        sa.Column("baseline_id", sa.Uuid(), nullable=True),
        sa.Column("figures", _json(), nullable=False),
        sa.Column("gate", _json(), nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.Column("failures", _json(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("report_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        *_references("evaluations", "tenants.id", "tenant_id"),
        *_references("evaluations", "jobs.id", "job_id"),
        *_references("evaluations", "models.id", "model_id", "baseline_id"),
        *_references("evaluations", "artifacts.id", "report_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        sa.UniqueConstraint("job_id", name=op.f("uq_evaluations_job_id")),
    )
    op.create_index("ix_evaluations_list", "evaluations", ["tenant_id", sa.text("id DESC")])
    op.create_index("ix_evaluations_model", "evaluations", ["model_id"])
    op.create_index("ix_evaluations_baseline", "evaluations", ["baseline_id"], postgresql_where=COMPARED)


def _json() -> postgresql.JSONB:
    return postgresql.JSONB(astext_type=sa.Text())


def _references(table: str, target: str, *columns: str) -> list[sa.ForeignKeyConstraint]:
    return [sa.ForeignKeyConstraint([name], [target], name=op.f(f"fk_{table}_{name}")) for name in columns]


def downgrade() -> None:
    for table in ("evaluations", "calibrations", "compression_files", "compression_jobs"):
        op.drop_table(table)
