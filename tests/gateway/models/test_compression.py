"""`/v1/calibrations`, `/v1/evaluations`, results of jobs, and two models beside each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy.orm import Session

from services.catalog import aliases
from services.jobs import lifecycle
from services.jobs.types import Ending, Outcome
from shared.db.models import Job, Model
from tests.gateway.conftest import Gateway
from tests.gateway.served import NOWHERE, PROBE, refused, submit
from tests.services.compression import found, kept
from tests.services.inference import build as models
from tests.services.jobs import build as jobs

RESULT = dict.fromkeys(("model", "artifact", "evaluation", "calibration", "file", "figures"))


@pytest.fixture
def session(gateway: Gateway) -> Iterator[Session]:
    """Rows that are written here are committed when the test says so."""
    with Session(gateway.database.engine, expire_on_commit=False) as opened:
        yield opened


@dataclass(frozen=True)
class Pair:
    """A model, and what was made of it."""

    original: Model
    small: Model


@pytest.fixture
def pair(session: Session, tenant: UUID) -> Pair:
    original = models.model(session, tenant, name="org/tiny", bytes=4_000_000)
    base = {"id": str(original.id), "name": "org/tiny", "version": 1, "digest": original.digest}
    source = {"type": "quantization", "job_id": found.JOB, "base": base, "recipe": {"scheme": "int8"}}
    small = models.model(session, tenant, name="org/tiny-int8", bytes=2_000_000, digest="ef" * 32, source=source)
    session.commit()
    return Pair(original, small)


def end(session: Session, job_id: UUID, outcome: Outcome = Outcome.SUCCEEDED) -> None:
    job = session.get_one(Job, job_id, populate_existing=True)
    claimed = next(iter(jobs.claim(session, queue=job.queue)), None)
    assert claimed is None, "it runs already"
    error = jobs.BOOM if outcome is Outcome.FAILED else None
    ending = Ending(job_id, job.attempt, outcome, error=error, permanent=True)
    assert lifecycle.end(session, [ending])


def listed(client: httpx.Client, path: str, **query: Any) -> list[str]:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["data"]]


class TestLists:
    @pytest.mark.parametrize("path", ["/v1/calibrations", "/v1/evaluations"])
    def test_pages_newest_first(self, session: Session, client: httpx.Client, pair: Pair, path: str) -> None:
        made = [self.made(session, path, pair.original) for _ in range(3)]
        session.commit()
        first = client.get(path, params={"limit": 2}).json()
        assert [row["id"] for row in first["data"]] == [str(made[2].id), str(made[1].id)]
        assert first["has_more"] is True
        rest = client.get(path, params={"limit": 2, "after": first["last_id"]}).json()
        assert ([row["id"] for row in rest["data"]], rest["has_more"]) == ([str(made[0].id)], False)

    @pytest.mark.parametrize("path", ["/v1/calibrations", "/v1/evaluations"])
    def test_of_one_model_or_job(self, session: Session, client: httpx.Client, pair: Pair, path: str) -> None:
        mine, other = self.made(session, path, pair.original), self.made(session, path, pair.small)
        session.commit()
        assert listed(client, path) == [str(other.id), str(mine.id)]
        for name in ("org/tiny", "org/tiny@1", str(pair.original.id)):
            assert listed(client, path, model=name) == [str(mine.id)]
        assert listed(client, path, job_id=str(other.job_id)) == [str(other.id)]
        assert listed(client, path, job_id=NOWHERE) == []

    @pytest.mark.parametrize("path", ["/v1/calibrations", "/v1/evaluations"])
    def test_queries_that_mean_nothing(self, client: httpx.Client, path: str) -> None:
        for cursor in (NOWHERE, "x"):
            refused(client.get(path, params={"after": cursor}), 400, "invalid_cursor", param="after")
        refused(client.get(path, params={"model": "none"}), 404, "model_not_found", param="model")
        refused(client.get(path, params={"job_id": "x"}), 422, "validation_failed", param="job_id")
        refused(client.get(path, params={"limit": 0}), 422, "validation_failed", param="limit")
        refused(client.get(path, params={"kind": "x"}), 400, "unknown_parameter", param="kind")

    def test_an_evaluation_is_its_baselines_too(self, session: Session, client: httpx.Client, pair: Pair) -> None:
        row = kept.evaluation(session, pair.small, pair.original, found.figures())
        session.commit()
        assert listed(client, "/v1/evaluations", model="org/tiny") == [str(row.id)]

    @staticmethod
    def made(session: Session, path: str, model: Model) -> Any:
        if path == "/v1/calibrations":
            return kept.calibration(session, model)
        return kept.evaluation(session, model, None, found.figures(found.text(None, 5.0), baseline=None))


class TestOne:
    def test_a_calibration(self, session: Session, client: httpx.Client, pair: Pair) -> None:
        row = kept.calibration(session, pair.original)
        session.commit()
        body = client.get(f"/v1/calibrations/{row.id}").json()
        assert (body["object"], body["model"], body["model_digest"]) == ("calibration", "org/tiny@1", "cd" * 32)
        assert body["facts"]["left_out"] == {"too_short": 3, "duplicate": 0}
        assert body["recommendation"]["scheme"] == "w4a16"
        assert (body["group_size"], body["sampling"]["samples"], body["data"]) == (128, 128, [])
        assert client.get(f"/v1/artifacts/{body['report_id']}").json()["id"] == str(row.report_id)

    def test_an_evaluation(self, session: Session, client: httpx.Client, pair: Pair) -> None:
        row = kept.evaluation(session, pair.small, pair.original, found.figures())
        session.commit()
        body = client.get(f"/v1/evaluations/{row.id}").json()
        assert (body["model"], body["baseline"]) == ("org/tiny-int8@1", "org/tiny@1")
        assert body["figures"] == found.figures().model_dump(mode="json")
        assert (body["gate"], body["passed"], body["failures"]) == (None, None, [])

    def test_an_evaluation_of_what_did_not_pass(self, session: Session, client: httpx.Client, pair: Pair) -> None:
        said = {"gate": {"max_ppl_increase": 0.01}, "passed": False, "failures": ["text: too much"]}
        row = kept.evaluation(session, None, pair.original, found.figures(), **said)
        session.commit()
        body = client.get(f"/v1/evaluations/{row.id}").json()
        assert (body["model"], body["model_id"], body["baseline"]) == ("tiny-int8", None, "org/tiny@1")
        assert (body["passed"], body["failures"]) == (False, ["text: too much"])
        assert body["gate"]["max_ppl_increase"] == 0.01

    def test_models_that_are_gone_keep_their_names(self, session: Session, client: httpx.Client, pair: Pair) -> None:
        row = kept.evaluation(session, pair.small, pair.original, found.figures())
        end(session, row.job_id)
        session.commit()
        assert client.delete("/v1/models/org/tiny-int8").status_code == 200
        assert client.get(f"/v1/evaluations/{row.id}").json()["model"] == "org/tiny-int8@1"

    @pytest.mark.parametrize("id", [NOWHERE, "x", "019b2f6e"])
    def test_ids_of_nothing(self, client: httpx.Client, id: str) -> None:
        refused(client.get(f"/v1/calibrations/{id}"), 404, "not_found", param="calibration_id")
        refused(client.get(f"/v1/evaluations/{id}"), 404, "not_found", param="evaluation_id")


class TestResult:
    def test_when_the_job_has_ended(self, session: Session, client: httpx.Client, pair: Pair) -> None:
        evaluation = kept.evaluation(session, pair.small, pair.original, found.figures())
        columns = {"result_model_id": pair.small.id, "evaluation_id": evaluation.id}
        job = kept.job(session, pair.original, kind="quantization", **columns)
        session.commit()
        path = f"/v1/jobs/{job.id}/result"
        refused(client.get(path), 404, "no_result", param="job_id")
        end(session, job.id)
        session.commit()
        expected = {"job": str(job.id), "model": str(pair.small.id), "evaluation": str(evaluation.id)}
        assert client.get(path).json() == RESULT | expected

    def test_of_a_job_that_failed(self, session: Session, client: httpx.Client, pair: Pair) -> None:
        judged, made = kept.job(session, pair.original), kept.job(session, pair.original, kind="quantization")
        for job in (judged, made):
            end(session, job.id, Outcome.FAILED)
        session.commit()
        about = {"job": str(judged.id), "model": str(pair.original.id)}
        assert client.get(f"/v1/jobs/{judged.id}/result").json() == RESULT | about
        assert client.get(f"/v1/jobs/{made.id}/result").json() == RESULT | {"job": str(made.id)}

    def test_other_kinds_have_none(self, client: httpx.Client) -> None:
        job = submit(client, **PROBE)
        refused(client.get(f"/v1/jobs/{job['id']}/result"), 404, "no_result", param="job_id")
        refused(client.get(f"/v1/jobs/{NOWHERE}/result"), 404, "not_found", param="job_id")


class TestCompare:
    def test_one_beside_the_other(self, session: Session, client: httpx.Client, pair: Pair) -> None:
        row = kept.evaluation(session, pair.small, pair.original, found.figures())
        session.commit()
        body = client.get("/v1/models/org/tiny/compare/org/tiny-int8").json()
        assert (body["a"]["id"], body["b"]["id"], body["ratios"]["bytes"]) == ("org/tiny@1", "org/tiny-int8@1", 0.5)
        assert (body["evaluation"], body["b"]["measured"]["name"]) == (str(row.id), "tiny-int8")
        assert (body["tasks"][0]["a"], body["tasks"][0]["b"]) == ({"perplexity": 50.0}, {"perplexity": 51.0})
        assert body["lineage"] == {"base": "org/tiny@1", "derived": "org/tiny-int8@1", "steps": [pair.small.source]}

    def test_by_every_name(self, session: Session, tenant: UUID, client: httpx.Client, pair: Pair) -> None:
        aliases.point(session, tenant, "prod", pair.small)
        session.commit()
        for a in ("org/tiny", "org%2Ftiny", "org/tiny@1", str(pair.original.id)):
            for b in ("org/tiny-int8", "org%2Ftiny-int8@1", "prod"):
                body = client.get(f"/v1/models/{a}/compare/{b}").json()
                assert (body["a"]["id"], body["b"]["id"]) == ("org/tiny@1", "org/tiny-int8@1")

    def test_whichever_is_missing_is_named(self, client: httpx.Client, pair: Pair) -> None:
        for a, b, wrong in (("none", "org/tiny", "a"), ("org/tiny", "none", "b"), ("org/tiny", "org/tiny@9", "b")):
            refused(client.get(f"/v1/models/{a}/compare/{b}"), 404, "model_not_found", param=wrong)
        refused(client.get("/v1/models/org/tiny/compare"), 404, "model_not_found", param="model")

    def test_no_name_hides_it(self, client: httpx.Client) -> None:
        for name in ("org/compare", "org/versions"):
            wish = {"name": name, "source": {"type": "folder", "path": "x"}}
            refused(client.post("/v1/models", json=wish), 400, "invalid_field", param="name")


def test_a_model_says_what_it_was_made_of(client: httpx.Client, pair: Pair) -> None:
    assert client.get("/v1/models/org/tiny-int8").json()["source"] == pair.small.source


def test_another_tenants_are_not_there(session: Session, gateway: Gateway, pair: Pair) -> None:
    calibration = kept.calibration(session, pair.original)
    session.commit()
    with gateway.caller() as stranger:
        assert stranger.get(f"/v1/calibrations/{calibration.id}").status_code == 404
        assert stranger.get("/v1/calibrations").json()["data"] == []
        compared = stranger.get(f"/v1/models/{pair.original.id}/compare/{pair.small.id}")
        refused(compared, 404, "model_not_found", param="a")
