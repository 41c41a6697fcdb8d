"""OpenAI's own client creates fine-tuning jobs: what they become, and what is refused."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.gateway.served import rows
from tests.gateway.tuning.desk import BASE, Desk, create, ours, spec_of


class TestCreate:
    def test_as_openai_has_it(self, sdk: OpenAI, desk: Desk) -> None:
        training, validation = desk.upload(), desk.upload()
        made = create(
            sdk,
            desk,
            training_file=training,
            validation_file=validation,
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}},
            suffix="mine",
            seed=7,
            metadata={"project": "x"},
        )
        assert made.id.startswith("ftjob-")
        assert (made.object, made.status, made.model) == ("fine_tuning.job", "queued", BASE)
        assert (made.training_file, made.validation_file, made.seed) == (training, validation, 7)
        assert (made.fine_tuned_model, made.finished_at, made.error, made.result_files) == (None, None, None, [])
        numbers = {"batch_size": 8, "learning_rate_multiplier": 1.0, "n_epochs": 2}
        assert made.hyperparameters.to_dict() == numbers
        assert made.method is not None
        assert made.method.to_dict() == {"type": "supervised", "supervised": {"hyperparameters": numbers}}
        assert (made.metadata, ours(made, "paused")) == ({"project": "x"}, False)
        assert sdk.fine_tuning.jobs.retrieve(made.id) == made
        spec = spec_of(desk, made)
        assert (spec["model"], spec["checkpoint_models"]) == (f"{BASE}@1", True)
        assert spec["name"].startswith(f"ft:{BASE}:tenant-")
        assert ":mine:" in spec["name"]

    def test_everything_may_be_left_open(self, sdk: OpenAI, desk: Desk) -> None:
        auto: Any = {"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto"}
        for fields in ({}, {"hyperparameters": auto}, {"suffix": ""}):
            made = create(sdk, desk, **fields)
            assert made.hyperparameters.to_dict() == {
                "batch_size": "auto",
                "learning_rate_multiplier": 1.0,
                "n_epochs": 3,
            }
            training = spec_of(desk, made)["training"]
            assert (training["learning_rate"], training["epochs"], training["seed"]) == (2e-4, 3.0, 0)

    def test_with_an_adapter_of_its_own_shape(self, sdk: OpenAI, desk: Desk) -> None:
        lora = {
            "r": 8,
            "alpha": 24,
            "dropout": 0.1,
            "target_modules": ["q_proj", "v_proj"],
            "rslora": True,
            "max_seq_len": 128,
            "packing": True,
            "lr": 0.005,
            "scheduler": "linear",
            "warmup": 0.1,
        }
        made = create(sdk, desk, extra_body={"lora": lora})
        spec = spec_of(desk, made)
        shape = {"rank": 8, "alpha": 24.0, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
        assert (spec["method"], spec["lora"]) == ("rslora", shape)
        wanted = {"learning_rate": 0.005, "schedule": "linear", "warmup": 0.1, "max_length": 128, "packing": True}
        assert {name: spec["training"][name] for name in wanted} == wanted
        assert made.hyperparameters.learning_rate_multiplier == 25.0
        assert ours(made, "lora") == shape | {"method": "rslora"}
        assert spec_of(desk, create(sdk, desk, extra_body={"lora": {"dora": True}}))["checkpoint_models"] is False

    @pytest.mark.parametrize(
        ("fields", "code", "param"),
        [
            ({"method": {"type": "dpo"}}, "unsupported_method", "method.type"),
            ({"method": {"type": "reinforcement"}}, "unsupported_method", "method.type"),
            ({"method": {"type": "supervised", "dpo": {}}}, "invalid_field", "method.dpo"),
            ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "unsupported_parameter", "integrations"),
            ({"training_file": "file-x"}, "invalid_field", "training_file"),
            ({"validation_file": "file-x"}, "invalid_field", "validation_file"),
            ({"suffix": "no suffix"}, "invalid_field", "suffix"),
            ({"seed": -1}, "invalid_field", "seed"),
            ({"hyperparameters": {"n_epochs": 0}}, "invalid_field", "hyperparameters.n_epochs"),
            ({"hyperparameters": {"batch_size": 65537}}, "invalid_field", "hyperparameters.batch_size"),
            ({"hyperparameters": {"learning_rate_multiplier": -1}}, "invalid_field", None),
            ({"hyperparameters": {"beta": 0.1}}, "unknown_parameter", "hyperparameters.beta"),
            ({"extra_body": {"colour": 1}}, "unknown_parameter", "colour"),
            ({"extra_body": {"lora": {"rank": 8}}}, "unknown_parameter", "lora.rank"),
            ({"extra_body": {"lora": {"r": 257}}}, "invalid_field", "lora.r"),
            ({"extra_body": {"lora": {"quantize_base": True}}}, "unsupported_parameter", "lora.quantize_base"),
            ({"extra_body": {"lora": {"rslora": True, "dora": True}}}, "invalid_field", "lora.dora"),
            ({"extra_body": {"lora": {"max_seq_len": 4096}}}, "invalid_field", "lora.max_seq_len"),
            ({"extra_body": {"lora": {"target_modules": ["fc1"]}}}, "invalid_field", "lora.target_modules.0"),
            ({"extra_body": {"lora": {"target_modules": ["lm_head"]}}}, "invalid_field", "lora.target_modules.0"),
        ],
    )
    def test_refusals(self, sdk: OpenAI, desk: Desk, *, fields: dict[str, Any], code: str, param: str | None) -> None:
        before = rows(desk.gateway)["jobs"]
        with pytest.raises(openai.BadRequestError) as caught:
            create(sdk, desk, **fields)
        assert (caught.value.code, caught.value.param) == (code, param or "hyperparameters.learning_rate_multiplier")
        assert rows(desk.gateway)["jobs"] == before

    def test_hyperparameters_stand_in_one_place(self, sdk: OpenAI, desk: Desk) -> None:
        method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
        with pytest.raises(openai.BadRequestError, match="once"):
            create(sdk, desk, method=method, hyperparameters={"n_epochs": 1})
        with pytest.raises(openai.BadRequestError, match="say the same"):
            create(sdk, desk, hyperparameters={"learning_rate_multiplier": 2}, extra_body={"lora": {"lr": 0.1}})

    def test_a_base_that_is_not_there(self, sdk: OpenAI, desk: Desk) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            create(sdk, desk, model="gpt-4.1-nano")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")

    def test_the_same_key_is_the_same_job(self, sdk: OpenAI, desk: Desk) -> None:
        body = {"model": BASE, "training_file": desk.upload()}
        header = {"idempotency-key": "mine"}
        first, again = (desk.client.post("/v1/fine_tuning/jobs", json=body, headers=header) for _ in range(2))
        assert (first.json(), again.headers["idempotent-replayed"]) == (again.json(), "true")
        other = desk.client.post("/v1/fine_tuning/jobs", json=body | {"seed": 1}, headers=header)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
        blind = desk.client.post("/v1/fine_tuning/jobs", json=body, headers={"x-stainless-retry-count": "1"})
        assert blind.json()["id"] == first.json()["id"]
