"""What serving needs: how a model is served, its other names, adapters, what engines measure, what callers wait for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    _models()
    _engines()
    op.create_table(
        "engine_measures",
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("gpu_class", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("tensor_parallel", sa.SmallInteger(), nullable=False),
        sa.Column("load_s", sa.Double(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint(
            "model_digest", "gpu_class", "kind", "tensor_parallel", name=op.f("pk_engine_measures")
        ),
    )
    op.create_table(
        "demands",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("devices", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("wanted_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("claimed_by", sa.Uuid(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_demands_model_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_demands_tenant_id")),
        sa.PrimaryKeyConstraint("queue", "model_id", "mode", name=op.f("pk_demands")),
    )
    op.create_index("ix_demands_wanted", "demands", ["queue", "wanted_at"], unique=False)


def _models() -> None:
    op.add_column("models", sa.Column("kind", sa.Text(), server_default="base", nullable=False))
    op.add_column("models", sa.Column("base_id", sa.Uuid(), nullable=True))
    empty = sa.text("'{}'")
    op.add_column(
        "models", sa.Column("serving", postgresql.JSONB(astext_type=sa.Text()), server_default=empty, nullable=False)
    )
    op.add_column("models", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.create_foreign_key(op.f("fk_models_base_id"), "models", "models", ["base_id"], ["id"])
    op.create_check_constraint(op.f("ck_models_kind"), "models", "kind IN ('base','adapter')")
    op.create_check_constraint(op.f("ck_models_base"), "models", "(kind = 'adapter') = (base_id IS NOT NULL)")
    op.create_index("ix_models_base", "models", ["base_id"], postgresql_where=sa.text("base_id IS NOT NULL"))
    op.create_table(
        "model_aliases",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_model_aliases_model_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_model_aliases_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "name", name=op.f("pk_model_aliases")),
    )
    op.create_index(op.f("ix_model_aliases_model_id"), "model_aliases", ["model_id"], unique=False)


def _engines() -> None:
    texts = postgresql.ARRAY(sa.Text())
    op.add_column("engines", sa.Column("tensor_parallel", sa.SmallInteger(), server_default="1", nullable=False))
    modes, none = sa.text("'{generate}'"), sa.text("'{}'")
    op.add_column("engines", sa.Column("modes", texts, server_default=modes, nullable=False))
    op.add_column("engines", sa.Column("adapters", texts, server_default=none, nullable=False))
    op.add_column("engines", sa.Column("token", sa.Text(), nullable=True))
    op.add_column(
        "engines", sa.Column("stats", postgresql.JSONB(astext_type=sa.Text()), server_default=none, nullable=False)
    )


def downgrade() -> None:
    op.drop_table("demands")
    op.drop_table("engine_measures")
    for column in ("stats", "token", "adapters", "modes", "tensor_parallel"):
        op.drop_column("engines", column)
    op.drop_table("model_aliases")
    op.drop_index("ix_models_base", table_name="models")
    op.drop_constraint(op.f("ck_models_base"), "models")
    op.drop_constraint(op.f("ck_models_kind"), "models")
    op.drop_constraint(op.f("fk_models_base_id"), "models")
    for column in ("deleted_at", "serving", "base_id", "kind"):
        op.drop_column("models", column)
