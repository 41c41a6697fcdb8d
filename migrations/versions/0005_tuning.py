"""Tuning and merging: their columns, metrics of runs, what a checkpoint is good for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
EMPTY = sa.text("'{}'")


def upgrade() -> None:
    op.create_table(
        "tuning_jobs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("relief", _json(), server_default=EMPTY, nullable=False),
        sa.Column("figures", _json(), nullable=True),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.Column("result_model_id", sa.Uuid(), nullable=True),
        sa.Column("artifact_id", sa.Uuid(), nullable=True),
        sa.Column("result_file_id", sa.Uuid(), nullable=True),
        *_references("tuning_jobs", "jobs.id", "job_id"),
        *_references("tuning_jobs", "models.id", "model_id", "result_model_id"),
        *_references("tuning_jobs", "artifacts.id", "artifact_id"),
        *_references("tuning_jobs", "files.id", "result_file_id"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_tuning_jobs")),
    )
    op.create_index("ix_tuning_jobs_model", "tuning_jobs", ["model_id"])
    op.create_table(
        "tuning_files",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        *_references("tuning_files", "jobs.id", "job_id"),
        *_references("tuning_files", "files.id", "file_id"),
        sa.PrimaryKeyConstraint("job_id", "file_id", name=op.f("pk_tuning_files")),
    )
    op.create_index("ix_tuning_files_file", "tuning_files", ["file_id"])
    op.create_table(
        "job_metrics",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("values", _json(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        *_references("job_metrics", "jobs.id", "job_id"),
        sa.PrimaryKeyConstraint("job_id", "step", name=op.f("pk_job_metrics")),
    )
    op.add_column("checkpoints", sa.Column("metrics", _json(), server_default=EMPTY, nullable=False))
    op.add_column("checkpoints", sa.Column("best", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("checkpoints", sa.Column("model_id", sa.Uuid(), nullable=True))
    op.create_index(
        "ix_checkpoints_model", "checkpoints", ["model_id"], postgresql_where=sa.text("model_id IS NOT NULL")
    )
    op.add_column("demands", sa.Column("ahead", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_foreign_key(op.f("fk_checkpoints_model_id"), "checkpoints", "models", ["model_id"], ["id"])


def _json() -> postgresql.JSONB:
    return postgresql.JSONB(astext_type=sa.Text())


def _references(table: str, target: str, *columns: str) -> list[sa.ForeignKeyConstraint]:
    return [sa.ForeignKeyConstraint([name], [target], name=op.f(f"fk_{table}_{name}")) for name in columns]


def downgrade() -> None:
    op.drop_column("demands", "ahead")
    op.drop_index("ix_checkpoints_model", "checkpoints")
    op.drop_constraint(op.f("fk_checkpoints_model_id"), "checkpoints", type_="foreignkey")
    for column in ("metrics", "best", "model_id"):
        op.drop_column("checkpoints", column)
    for table in ("job_metrics", "tuning_files", "tuning_jobs"):
        op.drop_table(table)
