"""`POST /v1/jobs` of the three kinds: what is accepted, and what is refused by its field before anything is written."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from gateway.submission import Once
from gateway.submitter import Accept
from services.accounts.service import Caller
from services.catalog import service as catalog
from services.catalog.register import Wish, register
from services.catalog.tree import FolderTree
from services.jobs import lifecycle
from shared.contracts.jobs import JobRequest
from shared.db.models import Model
from shared.storage import Store
from tests.gateway.conftest import Gateway
from tests.gateway.served import NOWHERE, PROBE, refused, rows
from tests.services.compression import kept
from tests.services.imports import build

FILE = f"file-{'0' * 32}"
LINES = b'{"text": "a line of text that is long enough"}\n' * 9


def request(kind: str = "quantization", **spec: Any) -> dict[str, Any]:
    usual = {"scheme": "w4a16"} if kind == "quantization" else {}
    return {"kind": kind, "spec": {"model": "tiny", **usual, **spec}}


def upload(client: httpx.Client, data: bytes = LINES, *, purpose: str = "user_data") -> str:
    answer = client.post("/v1/files", files={"file": ("texts.jsonl", data)}, data={"purpose": purpose})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def known(gateway: Gateway) -> Iterator[httpx.Client]:
    """A caller who has `tiny`, for calls that leave nothing behind."""
    tenant = gateway.tenant()
    catalog.register_folder(gateway.database, Store.of(gateway.settings), tenant, name="tiny", folder=build.TINY)
    with gateway.caller(tenant=tenant) as opened:
        yield opened


class TestAccepted:
    @pytest.mark.parametrize(
        ("body", "unit"),
        [(request(), "layers"), (request("calibration"), "layers"), (request("evaluation"), "samples")],
    )
    def test_each_kind(
        self, client: httpx.Client, tiny: Callable[..., Model], *, body: dict[str, Any], unit: str
    ) -> None:
        tiny()
        answer = client.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert (job["kind"], job["state"], job["progress"]["unit"]) == (body["kind"], "queued", unit)
        assert (job["queue"].endswith(".forge"), job["spec"]["model"]) == (True, "tiny@1")

    def test_the_plan_alone(self, gateway: Gateway, client: httpx.Client, tiny: Callable[..., Model]) -> None:
        tiny()
        before = rows(gateway)
        plan = client.post("/v1/jobs?validate_only=true", json=request()).json()
        assert (plan["valid"], plan["spec"]["method"], plan["spec"]["group_size"]) == (True, "gptq", 128)
        assert plan["plan"]["memory_bytes"] > 0
        refused(
            client.post("/v1/jobs?validate_only=true", json=request(ignore=["none"])),
            422,
            "validation_failed",
            param="spec.ignore.0",
        )
        assert rows(gateway) == before

    def test_the_same_key_is_the_same_job_even_if_its_model_is_gone(
        self, gateway: Gateway, tenant: UUID, client: httpx.Client, tiny: Callable[..., Model]
    ) -> None:
        tiny()
        headers = {"idempotency-key": "once"}
        first = client.post("/v1/jobs", json=request(), headers=headers).json()
        with gateway.database.transaction() as session:
            lifecycle.cancel(session, tenant, UUID(first["id"]), reason="test")
        assert client.delete("/v1/models/tiny").status_code == 200
        again = client.post("/v1/jobs", json=request(), headers=headers)
        assert (again.status_code, again.json()["id"]) == (202, first["id"])
        assert again.headers["idempotent-replayed"] == "true"
        other = client.post("/v1/jobs", json=request(scheme="int8"), headers=headers)
        refused(other, 422, "idempotency_mismatch", param="Idempotency-Key")

    @pytest.mark.parametrize(("body", "alone"), [(request(), True), (request("evaluation"), False), (PROBE, False)])
    def test_what_is_looked_at_goes_alone(self, *, body: dict[str, Any], alone: bool) -> None:
        wish = JobRequest.model_validate(body)
        assert Accept(Caller(UUID(NOWHERE), "", "", frozenset()), wish, Once(), bytes=100).alone is alone

    def test_a_model_that_a_waiting_job_needs_stays(self, client: httpx.Client, tiny: Callable[..., Model]) -> None:
        tiny()
        client.post("/v1/jobs", json=request())
        refused(client.delete("/v1/models/tiny"), 409, "model_in_use", param="model")

    def test_a_calibration_of_the_same_weights(
        self, gateway: Gateway, client: httpx.Client, tiny: Callable[..., Model]
    ) -> None:
        model = tiny()
        with gateway.database.transaction() as session:
            row = kept.calibration(session, model)
        for named in (row.id, row.artifact_id):
            answer = client.post("/v1/jobs", json=request(calibration=str(named), scheme="recommended"))
            assert answer.status_code == 202, answer.text
            assert (answer.json()["spec"]["scheme"], answer.json()["spec"]["calibration"]) == ("w4a16", str(row.id))


class TestRefused:
    @pytest.mark.parametrize(
        ("kind", "spec", "param"),
        [
            ("quantization", {"scheme": "int3"}, "spec.scheme"),
            ("quantization", {"scheme": None}, "spec.scheme"),
            ("quantization", {"method": "awq", "scheme": "int8"}, "spec.method"),
            ("quantization", {"scheme": "fp8", "group_size": 64}, "spec.group_size"),
            ("quantization", {"gate": {"max_ppl_increase": 0.1}, "evaluation": None}, "spec.gate"),
            ("quantization", {"gate": {}}, "spec.gate"),
            ("quantization", {"gate": {"max_ppl_increase": -1}}, "spec.gate.max_ppl_increase"),
            ("quantization", {"scheme": "recommended"}, "spec"),
            ("quantization", {"data": [{"type": "file", "file_id": FILE}]}, "spec.data.0.file_id"),
            ("quantization", {"sampling": {"sequence_length": 100_000}}, "spec.sampling.sequence_length"),
            ("quantization", {"sampling": {"strategy": "domain"}}, "spec.sampling"),
            ("quantization", {"ignore": ["re:.*nothing"]}, "spec.ignore.0"),
            ("quantization", {"ignore": ["lm_head", "re:("]}, "spec.ignore.1"),
            (
                "quantization",
                {"overrides": [{"layers": ["mlp", "up_proj"], "scheme": "w8a16"}]},
                "spec.overrides.0.layers.0",
            ),
            ("calibration", {"schemes": ["bf16"]}, "spec.schemes"),
            ("calibration", {"data": [{"type": "file", "file_id": "x"}]}, "spec.data.0.file_id"),
            ("evaluation", {"tasks": [{"type": "choice", "file_id": FILE}]}, "spec.tasks.0.file_id"),
            ("evaluation", {"tasks": [{"type": "text", "sequence_length": 100_000}]}, "spec.tasks.0.sequence_length"),
            ("evaluation", {"gate": {"min_agreement": 0.9}}, "spec.gate"),
        ],
    )
    def test_by_the_field(
        self,
        gateway: Gateway,
        known: httpx.Client,
        *,
        kind: str,
        spec: dict[str, Any],
        param: str,
    ) -> None:
        before = rows(gateway)
        refused(known.post("/v1/jobs", json=request(kind, **spec)), 422, "validation_failed", param=param)
        assert rows(gateway) == before

    def test_layers_that_no_group_size_divides_are_named(self, gateway: Gateway, known: httpx.Client) -> None:
        before = rows(gateway)
        answer = known.post("/v1/jobs", json=request(group_size=96))
        body = refused(answer, 422, "validation_failed", param="spec.group_size")
        assert body["errors"][0]["code"] == "group_size_does_not_divide"
        assert "model.layers.0.self_attn.q_proj (256)" in body["detail"]
        assert rows(gateway) == before

    def test_every_pattern_that_means_nothing_is_named(self, known: httpx.Client) -> None:
        body = known.post("/v1/jobs", json=request(ignore=["a", "lm_head", "re:b"])).json()
        assert [each["param"] for each in body["errors"]] == ["spec.ignore.0", "spec.ignore.2"]
        assert {each["code"] for each in body["errors"]} == {"pattern_matches_nothing"}

    def test_unknown_fields(self, known: httpx.Client) -> None:
        for spec, param in (({"bits": 4}, "spec.bits"), ({"gate": {"min_accuracy": 1}}, "spec.gate.min_accuracy")):
            refused(known.post("/v1/jobs", json=request(**spec)), 400, "unknown_parameter", param=param)

    @pytest.mark.parametrize("kind", ["calibration", "quantization", "evaluation"])
    def test_a_model_of_nobody(self, client: httpx.Client, kind: str) -> None:
        refused(client.post("/v1/jobs", json=request(kind)), 404, "model_not_found", param="spec.model")

    def test_what_is_quantized_already(
        self, client: httpx.Client, tiny: Callable[..., Model], gateway: Gateway
    ) -> None:
        row = tiny()
        with gateway.database.transaction() as session:
            known = catalog.by_id(session, row.tenant_id, row.id)
            known.config = known.config | {"quantization_config": {"quant_method": "fp8"}}
        refused(client.post("/v1/jobs", json=request()), 422, "unprocessable", param="spec.model")

    def test_an_adapter(
        self, gateway: Gateway, client: httpx.Client, tiny: Callable[..., Model], tmp_path: Path
    ) -> None:
        base, store = tiny(), Store.of(gateway.settings)
        tree = FolderTree(build.adapter(tmp_path / "lora"), store, base.tenant_id)
        register(gateway.database, store, base.tenant_id, tree, wish=Wish("lora", base=base))
        for kind in ("calibration", "quantization", "evaluation"):
            answer = client.post("/v1/jobs", json=request(kind, model="lora"))
            refused(answer, 422, "unprocessable", param="spec.model")

    @pytest.mark.parametrize(
        ("scheme", "gpu_class"), [("fp8-dynamic", "a100-80g"), ("nvfp4", "auto"), ("nvfp4", "h200"), ("fp8-kv", "cpu")]
    )
    def test_a_scheme_that_no_such_device_serves(
        self, gateway: Gateway, known: httpx.Client, *, scheme: str, gpu_class: str
    ) -> None:
        before = rows(gateway)
        answer = known.post("/v1/jobs", json=request(scheme=scheme) | {"gpu_class": gpu_class})
        refused(answer, 422, "unplaceable", param="gpu_class")
        assert rows(gateway) == before

    def test_one_that_is_made_elsewhere(self, known: httpx.Client) -> None:
        job = known.post("/v1/jobs", json=request(scheme="fp8-kv") | {"gpu_class": "h200"}).json()
        assert job["queue"] == "h200.forge"

    def test_the_job_behind_another(self, gateway: Gateway, known: httpx.Client) -> None:
        before = rows(gateway)
        chain = request("calibration") | {"on_success": [request(ignore=["none"])]}
        refused(known.post("/v1/jobs", json=chain), 422, "validation_failed", param="on_success.0.spec.ignore.0")
        later = request("calibration") | {"on_success": [request(model="tiny-w4a16")]}
        refused(known.post("/v1/jobs", json=later), 404, "model_not_found", param="on_success.0.spec.model")
        assert rows(gateway) == before


class TestData:
    def test_a_file_that_is_gone_or_anothers(
        self, gateway: Gateway, client: httpx.Client, tiny: Callable[..., Model]
    ) -> None:
        tiny()
        deleted = upload(client)
        client.delete(f"/v1/files/{deleted}")
        with gateway.caller() as stranger:
            foreign = upload(stranger)
        sources = [{"type": "file", "file_id": each} for each in (upload(client), deleted, foreign)]
        body = client.post("/v1/jobs", json=request("calibration", data=sources)).json()
        assert [each["param"] for each in body["errors"]] == ["spec.data.1.file_id", "spec.data.2.file_id"]
        assert {each["code"] for each in body["errors"]} == {"not_found"}

    def test_a_file_for_something_else(self, known: httpx.Client) -> None:
        source = {"type": "file", "file_id": upload(known, b'{"custom_id": "1"}\n', purpose="batch")}
        answer = known.post("/v1/jobs", json=request("calibration", data=[source]))
        assert (
            refused(answer, 422, "validation_failed", param="spec.data.0.file_id")["errors"][0]["code"]
            == "wrong_purpose"
        )

    def test_an_empty_file(self, known: httpx.Client) -> None:
        source = {"type": "file", "file_id": upload(known, b"")}
        answer = known.post("/v1/jobs", json=request("calibration", data=[source]))
        assert (
            refused(answer, 422, "validation_failed", param="spec.data.0.file_id")["errors"][0]["code"] == "empty_file"
        )

    def test_data_where_none_is_looked_at(self, known: httpx.Client) -> None:
        spec: dict[str, Any] = {"scheme": "fp8-dynamic", "data": [{"type": "library"}]}
        refused(known.post("/v1/jobs", json=request(**spec)), 422, "unprocessable", param="spec.data")

    def test_a_calibration_of_nobody_another_or_other_weights(
        self, gateway: Gateway, client: httpx.Client, tiny: Callable[..., Model]
    ) -> None:
        tiny()
        with gateway.database.transaction() as session:
            other = kept.calibration(session, tiny("other", readme="other"))
        for named in (NOWHERE, "x", str(other.id)):
            answer = client.post("/v1/jobs", json=request(calibration=named))
            refused(answer, 422, "unprocessable", param="spec.calibration")
