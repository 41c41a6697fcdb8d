"""Tunings and merges by our own routes: the plan with its advice, metrics, checkpoints, results, retries."""

from typing import Any

import pytest

from tests.gateway.conftest import Gateway
from tests.gateway.served import refused
from tests.gateway.tuning.desk import BASE, FIGURES, Desk, opened
from tests.services.tuning.made import adapter


def ask(desk: Desk, query: str = "", **spec: Any) -> Any:
    body = {"kind": "tuning", "gpu_class": "cpu", "spec": {"model": BASE, "data": [{"type": "library"}], **spec}}
    return desk.client.post(f"/v1/jobs{query}", json=body)


class TestPlan:
    def test_says_memory_time_cost_and_setting(self, desk: Desk) -> None:
        draft = ask(desk, "?validate_only=true", training={"steps": 10, "batch_size": 8}).json()
        advice = draft["advice"]
        assert advice["setting"] == {
            "devices": 1,
            "batch_size": 8,
            "micro_batch_size": 8,
            "accumulation": 1,
            "max_length": 2048,
            "precision": "fp32",
            "gradient_checkpointing": False,
            "compiled": False,
            "activation_offloading": False,
            "packing": False,
        }
        parts = advice["memory"]
        assert parts["total"] == sum(parts[name] for name in ("weights", "trained", "activations", "logits"))
        assert draft["cost"] == pytest.approx(advice["cost"], rel=0.01)
        assert draft["planned_gpu_s"] == pytest.approx(advice["seconds"], rel=0.01)
        assert (draft["total"], draft["unit"], advice["steps"]) == (10, "steps", 10)

    def test_modules_that_the_base_has_not(self, desk: Desk) -> None:
        body = refused(
            ask(desk, lora={"target_modules": ["q_proj", "fc1"]}),
            422,
            "validation_failed",
            param="spec.lora.target_modules.1",
        )
        assert "down_proj, gate_proj, k_proj" in body["detail"]
        assert ask(desk, lora={"target_modules": ["layers.0.self_attn.q_proj"]}).status_code == 202

    def test_unknown_options_are_named(self, desk: Desk) -> None:
        refused(ask(desk, training={"lr": 1}), 400, "unknown_parameter", param="spec.training.lr")
        refused(ask(desk, method="qlora"), 422, "validation_failed", param="spec.method")


class TestMetrics:
    def test_ascending_by_pages(self, desk: Desk) -> None:
        job = desk.submit()
        desk.train(desk.claim(job["id"]), 1, 2, 3)
        first = desk.client.get(job["links"]["metrics"], params={"limit": 2}).json()
        assert ([row["id"] for row in first["data"]], first["has_more"]) == ([1, 2], True)
        rest = desk.client.get(job["links"]["metrics"], params={"after": first["last_id"]}).json()
        (row,) = rest["data"]
        assert (row["id"], row["attempt"], rest["has_more"]) == (3, 1, False)
        assert (row["values"]["loss"], row["values"]["validation_loss"]) == (pytest.approx(2 / 3), 1.5)

    def test_checkpoints_say_what_they_are_worth(self, desk: Desk) -> None:
        job = desk.submit(name="mine", checkpoint_models=True)
        desk.checkpoint(desk.claim(job["id"]), 2)
        (row,) = desk.client.get(job["links"]["checkpoints"]).json()["data"]
        assert (row["step"], row["best"], row["model"]) == (2, True, "mine:ckpt-step-2")
        assert row["metrics"] == {"loss": 1.0, "validation_loss": 1.5}


class TestResult:
    def test_of_a_tuning(self, desk: Desk) -> None:
        job = desk.submit()
        path = f"/v1/jobs/{job['id']}/result"
        refused(desk.client.get(path), 404, "no_result", param="job_id")
        model = desk.succeed(desk.claim(job["id"]))
        result = desk.client.get(path).json()
        assert (result["model"], result["evaluation"]) == (str(model.id), None)
        assert result["figures"] == FIGURES.model_dump(mode="json")
        assert desk.client.get(f"/v1/files/{result['file']}").json()["purpose"] == "fine-tune-results"

    def test_of_a_merge_that_was_stopped(self, desk: Desk) -> None:
        with desk.gateway.database.transaction() as session:
            adapter(session, desk.tenant, desk.base, name="mine")
        asked = {"kind": "merge", "gpu_class": "cpu", "spec": {"model": "mine"}}
        job = desk.client.post("/v1/jobs", json=asked).json()
        assert job["spec"]["name"] == "mine-merged"
        desk.client.post(f"/v1/jobs/{job['id']}/cancel")
        assert desk.client.get(f"/v1/jobs/{job['id']}/result").json()["model"] is None


def test_what_a_waiting_job_needs_cannot_go(gateway: Gateway) -> None:
    with opened(gateway) as desk:
        job = desk.submit()
        body = refused(desk.client.delete(f"/v1/models/{BASE}"), 409, "model_in_use", param="model")
        assert "tunings and merges (1)" in body["detail"]
        desk.client.post(f"/v1/jobs/{job['id']}/cancel")
        assert desk.client.delete(f"/v1/models/{BASE}").status_code == 200
