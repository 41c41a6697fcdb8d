"""A waiting job's spec may change once: when the model that it names as `$result` has been made."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

FROZEN = """
CREATE OR REPLACE FUNCTION jobs_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.spec, NEW.tenant_id, NEW.kind) IS DISTINCT FROM (OLD.spec, OLD.tenant_id, OLD.kind) THEN
    RAISE EXCEPTION 'job %: spec, tenant and kind never change', OLD.id USING ERRCODE = 'MY001';
  END IF;
  RETURN NEW;
END $$
"""

# See services/jobs/late.py. In strict mode `*` does not look into lists, where `$result` is a text like any other.
ONCE = """
CREATE OR REPLACE FUNCTION jobs_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.tenant_id, NEW.kind) IS DISTINCT FROM (OLD.tenant_id, OLD.kind)
    OR (NEW.spec IS DISTINCT FROM OLD.spec AND NOT (
      OLD.state = 'queued' AND NEW.state = 'queued' AND OLD.attempt = 0 AND OLD.blocked AND NOT NEW.blocked
      AND jsonb_path_exists(OLD.spec, 'strict $.* ? (@ == "$result")'))) THEN
    RAISE EXCEPTION 'job %: spec, tenant and kind never change', OLD.id USING ERRCODE = 'MY001';
  END IF;
  RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.execute(ONCE)


def downgrade() -> None:
    op.execute(FROZEN)
