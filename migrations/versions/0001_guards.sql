-- The second lock behind services/jobs/lifecycle.py: a slip in code becomes an error here, not corruption.
-- SQLSTATE MY001: an edge that the table of moves does not have. MY002: a stale attempt wrote.

CREATE FUNCTION jobs_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.finished_at IS NOT NULL THEN
    RAISE EXCEPTION 'job % is %: a terminal job never changes', OLD.id, OLD.state USING ERRCODE = 'MY001';
  END IF;
  IF OLD.state <> NEW.state AND NOT (
       (OLD.state = 'queued'  AND NEW.state IN ('running', 'cancelled', 'expired'))
    OR (OLD.state = 'running' AND NEW.state IN ('queued', 'succeeded', 'failed', 'cancelled', 'expired'))
  ) THEN
    RAISE EXCEPTION 'job % cannot go from % to %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'MY001';
  END IF;
  IF NEW.attempt <> OLD.attempt + (OLD.state = 'queued' AND NEW.state = 'running')::int THEN
    RAISE EXCEPTION 'job %: attempt goes from % to %', OLD.id, OLD.attempt, NEW.attempt USING ERRCODE = 'MY001';
  END IF;
  IF NEW.state = 'cancelled' AND NEW.cancel_requested_at IS NULL THEN
    RAISE EXCEPTION 'job % was never asked to cancel', OLD.id USING ERRCODE = 'MY001';
  END IF;
  NEW.version := OLD.version + 1;
  NEW.updated_at := clock_timestamp();
  RETURN NEW;
END $$;
CREATE TRIGGER jobs_guard BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_guard();

CREATE FUNCTION jobs_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.spec, NEW.tenant_id, NEW.kind) IS DISTINCT FROM (OLD.spec, OLD.tenant_id, OLD.kind) THEN
    RAISE EXCEPTION 'job %: spec, tenant and kind never change', OLD.id USING ERRCODE = 'MY001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER jobs_frozen BEFORE UPDATE OF spec, tenant_id, kind ON jobs
  FOR EACH ROW EXECUTE FUNCTION jobs_frozen();

CREATE FUNCTION attempt_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM jobs WHERE id = NEW.job_id AND state = 'running' AND attempt = NEW.attempt) THEN
    RAISE EXCEPTION 'attempt % of job % is not running', NEW.attempt, NEW.job_id USING ERRCODE = 'MY002';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER checkpoints_guard BEFORE INSERT ON checkpoints FOR EACH ROW EXECUTE FUNCTION attempt_guard();
CREATE TRIGGER artifacts_guard BEFORE INSERT ON artifacts FOR EACH ROW EXECUTE FUNCTION attempt_guard();
CREATE TRIGGER job_items_recorded BEFORE INSERT OR UPDATE ON job_items
  FOR EACH ROW WHEN (NEW.status <> 'pending') EXECUTE FUNCTION attempt_guard();

CREATE FUNCTION job_items_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.status <> 'pending' THEN
    RAISE EXCEPTION 'line % of job % is recorded already', OLD.line_no, OLD.job_id USING ERRCODE = 'MY001';
  END IF;
  IF NEW.input IS DISTINCT FROM OLD.input THEN
    RAISE EXCEPTION 'line % of job %: input never changes', OLD.line_no, OLD.job_id USING ERRCODE = 'MY001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER job_items_guard BEFORE UPDATE ON job_items FOR EACH ROW EXECUTE FUNCTION job_items_guard();

CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'MY001';
END $$;
CREATE TRIGGER job_events_append_only BEFORE UPDATE ON job_events FOR EACH ROW EXECUTE FUNCTION append_only();
