"""OpenAI's own client: follow a fine-tuning job, hold it, stop it, list it, and find what it made."""

import httpx2
import openai
import pytest
from openai import OpenAI

from services.jobs.types import Outcome
from shared.contracts.jobs import JobError
from tests.gateway.conftest import Gateway
from tests.gateway.tuning.desk import CSV, Desk, claimed, create, opened, ours, spec_of
from tests.services.jobs.build import BOOM


class TestLife:
    def test_from_its_file_to_a_model(self, sdk: OpenAI, desk: Desk) -> None:
        made = create(sdk, desk, suffix="mine", validation_file=desk.upload())
        claim = claimed(desk, made)
        for count in (0, 5):
            desk.progress(claim, count, 20, "samples")
            assert sdk.fine_tuning.jobs.retrieve(made.id).status == "validating_files"
        desk.train(claim, 1, 2)
        desk.checkpoint(claim, 2)
        now = sdk.fine_tuning.jobs.retrieve(made.id)
        assert now.status == "running"
        assert now.estimated_finish is not None
        desk.train(claim, 3, 4)
        model = desk.succeed(claim)
        done = sdk.fine_tuning.jobs.retrieve(made.id)
        assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", model.name, 512)
        assert (done.hyperparameters.batch_size, done.estimated_finish) == (8, None)
        assert done.finished_at is not None
        (file_id,) = done.result_files
        assert sdk.files.retrieve(file_id).purpose == "fine-tune-results"
        assert sdk.files.content(file_id).read() == CSV
        assert sdk.models.retrieve(model.name).id == model.name
        assert model.name in [each.id for each in sdk.models.list()]
        assert sdk.models.delete(model.name).deleted

    def test_what_failed_says_why(self, sdk: OpenAI, desk: Desk) -> None:
        made = create(sdk, desk)
        error = JobError(code="invalid_data", title="The data cannot be used", detail="chats.jsonl: line 3: no role")
        desk.end(claimed(desk, made), Outcome.FAILED, error=error, permanent=True)
        failed = sdk.fine_tuning.jobs.retrieve(made.id)
        assert (failed.status, failed.fine_tuned_model) == ("failed", None)
        assert failed.error is not None
        assert (failed.error.code, failed.error.param) == ("invalid_data", None)
        assert failed.error.message == "The data cannot be used: chats.jsonl: line 3: no role"

    def test_a_pause_is_a_queue_that_says_so(self, sdk: OpenAI, desk: Desk) -> None:
        made = create(sdk, desk)
        claim = claimed(desk, made)
        desk.train(claim, 1)
        assert ours(sdk.fine_tuning.jobs.pause(made.id), "paused") is True
        desk.checkpoint(claim, 1)
        desk.end(claim, Outcome.RELEASED)
        held = sdk.fine_tuning.jobs.retrieve(made.id)
        assert (held.status, ours(held, "paused")) == ("queued", True)
        assert "Fine-tuning job paused" in [event.message for event in sdk.fine_tuning.jobs.list_events(made.id)]
        resumed = sdk.fine_tuning.jobs.resume(made.id)
        assert (resumed.status, ours(resumed, "paused")) == ("queued", False)
        assert claimed(desk, made).attempt == 2

    def test_cancel(self, sdk: OpenAI, desk: Desk) -> None:
        made = create(sdk, desk)
        assert sdk.fine_tuning.jobs.cancel(made.id).status == "cancelled"
        assert sdk.fine_tuning.jobs.cancel(made.id).status == "cancelled"
        runs = create(sdk, desk)
        claim = claimed(desk, runs)
        desk.train(claim, 1)
        assert sdk.fine_tuning.jobs.cancel(runs.id).status == "running"  # until nothing of it runs any more
        desk.checkpoint(claim, 1)
        desk.end(claim, Outcome.CANCELLED)
        assert sdk.fine_tuning.jobs.retrieve(runs.id).status == "cancelled"
        assert len(sdk.fine_tuning.jobs.checkpoints.list(runs.id).data) == 1

    def test_what_has_ended_stays_so(self, sdk: OpenAI, desk: Desk) -> None:
        made = create(sdk, desk)
        desk.succeed(claimed(desk, made))
        for verb in ("cancel", "pause", "resume"):
            answer = desk.client.post(f"/v1/fine_tuning/jobs/{made.id}/{verb}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "already_finished")
            assert answer.headers["x-should-retry"] == "false"

    def test_a_job_of_our_own_route_is_one_too(self, sdk: OpenAI, desk: Desk) -> None:
        job = desk.submit(training={"steps": 4}, method="full", name="own")
        found = sdk.fine_tuning.jobs.retrieve(f"ftjob-{job['id'].replace('-', '')}")
        assert (found.training_file, found.hyperparameters.n_epochs) == ("library", "auto")
        assert ours(found, "lora") is None
        desk.succeed(desk.claim(job["id"]))
        again = desk.client.post(f"/v1/jobs/{job['id']}/retry").json()
        assert again["spec"] == job["spec"]
        desk.succeed(desk.claim(again["id"]))
        ended = sdk.fine_tuning.jobs.retrieve(f"ftjob-{again['id'].replace('-', '')}")
        assert (ended.fine_tuned_model, ended.hyperparameters.n_epochs) == ("own@2", 2)


class TestEvents:
    def test_newest_first_by_pages(self, sdk: OpenAI, desk: Desk) -> None:
        made = create(sdk, desk)
        claim = claimed(desk, made)
        desk.log(claim, "warning", "ran out of memory at step 1: goes on with half the micro-batch (4)")
        desk.train(claim, 1, 2)
        desk.checkpoint(claim, 2)
        desk.end(claim, Outcome.FAILED, error=BOOM, permanent=True)
        events = list(sdk.fine_tuning.jobs.list_events(made.id, limit=2))
        assert [event.message for event in events] == [
            "The job failed: It went wrong",
            "Checkpoint created at step 2",
            "Step 2/4: training loss=1, validation loss=1.5",
            "Step 1/4: training loss=2",
            "ran out of memory at step 1: goes on with half the micro-batch (4)",
            "Fine-tuning job started",
            f"Created fine-tuning job: {made.id}",
        ]
        assert [event.level for event in events] == ["error", "info", "info", "info", "warn", "info", "info"]
        assert len({event.id for event in events}) == len(events)
        assert all(event.id.startswith("ftevent-") for event in events)
        metrics = events[2]
        assert metrics.type == "metrics"
        assert metrics.data == {
            "step": 2,
            "train_loss": 1.0,
            "train_mean_token_accuracy": 0.5,
            "valid_loss": 1.5,
            "learning_rate": 1e-4,
        }

    def test_cursors_are_the_jobs_own(self, sdk: OpenAI, desk: Desk) -> None:
        made = create(sdk, desk)
        for after in ("ftevent-e9", "ftevent-m1", "ftevent-x1", "ftevent-", "e1"):
            with pytest.raises(openai.BadRequestError) as caught:
                sdk.fine_tuning.jobs.list_events(made.id, after=after)
            assert (caught.value.code, caught.value.param) == ("invalid_cursor", "after")


class TestCheckpoints:
    def test_each_is_a_model(self, sdk: OpenAI, desk: Desk) -> None:
        made = create(sdk, desk, suffix="mine")
        claim = claimed(desk, made)
        for step in (1, 2, 3):
            desk.checkpoint(claim, step, served=step != 1)
        found = list(sdk.fine_tuning.jobs.checkpoints.list(made.id, limit=2))
        assert [each.step_number for each in found] == [3, 2, 1]
        name = f"{spec_of(desk, made)['name']}:ckpt-step-3"
        assert found[0].fine_tuned_model_checkpoint == name
        assert found[2].to_dict()["fine_tuned_model_checkpoint"] is None
        assert sdk.models.retrieve(name).id == name
        assert (found[0].object, found[0].fine_tuning_job_id) == ("fine_tuning.job.checkpoint", made.id)
        assert found[0].metrics.train_loss == pytest.approx(2 / 3)
        assert (found[0].metrics.step, found[0].metrics.valid_loss, found[0].metrics.full_valid_loss) == (3, 1.5, 1.5)
        with pytest.raises(openai.BadRequestError):
            sdk.fine_tuning.jobs.checkpoints.list(made.id, after="ftckpt_x")

    def test_permissions_are_not_granted(self, sdk: OpenAI, desk: Desk) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            sdk.fine_tuning.checkpoints.permissions.list("ftckpt_x")
        assert caught.value.code == "unknown_route"


class TestList:
    def test_by_pages_and_metadata(self, gateway: Gateway) -> None:
        with (
            opened(gateway) as desk,
            OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(tenant=desk.tenant)) as sdk,
        ):
            self.walk(sdk, desk)

    @staticmethod
    def walk(sdk: OpenAI, desk: Desk) -> None:
        marks: list[dict[str, str]] = [{"a": "1", "b": "2"}, {"a": "1"}, {}]
        made = [create(sdk, desk, metadata=each).id for each in marks]
        assert [job.id for job in sdk.fine_tuning.jobs.list(limit=1)] == made[::-1]
        assert [job.id for job in sdk.fine_tuning.jobs.list(metadata={"a": "1"})] == made[1::-1]
        assert [job.id for job in sdk.fine_tuning.jobs.list(metadata={"a": "1", "b": "2"})] == [made[0]]
        assert [job.id for job in sdk.fine_tuning.jobs.list(metadata={"a": "2"})] == []
        nobody = sdk.get("/fine_tuning/jobs?metadata=null", cast_to=httpx2.Response).json()
        assert [job["id"] for job in nobody["data"]] == [made[2]]

    def test_queries_that_mean_nothing(self, desk: Desk) -> None:
        wrong = [
            ("metadata=x", "invalid_field"),
            ("metadata[a]=1&metadata=null", "invalid_field"),
            ("meta[a]=1", "unknown_parameter"),
            ("metadata[a=1", "unknown_parameter"),
            ("after=ftjob-x", "invalid_cursor"),
        ]
        for query, code in wrong:
            answer = desk.client.get(f"/v1/fine_tuning/jobs?{query}")
            assert (answer.status_code, answer.json()["code"]) == (400, code)

    def test_other_kinds_are_none(self, gateway: Gateway, desk: Desk) -> None:
        job = desk.client.post("/v1/jobs", json={"kind": "probe", "spec": {"steps": 0}}).json()
        answer = desk.client.get(f"/v1/fine_tuning/jobs/ftjob-{job['id'].replace('-', '')}")
        assert (answer.status_code, answer.json()["param"]) == (404, "fine_tuning_job_id")
