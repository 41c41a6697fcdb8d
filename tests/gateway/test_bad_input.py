"""Bad input: a 4xx with a code and the field, in one shape, and nothing written."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.jobs.kinds import names
from tests.gateway.bad_requests import BODIES, CALLS, FIELDS, HOOK, PAST, SPECS
from tests.gateway.conftest import Gateway
from tests.gateway.served import NOWHERE, PROBE, inference, refused, register, rows, submit

JSON = {"content-type": "application/json"}
MIB = 1024**2


@pytest.fixture(scope="module")
def caller(gateway: Gateway) -> Iterator[httpx.Client]:
    tenant = gateway.tenant()
    register(gateway, tenant)
    with gateway.caller(tenant=tenant) as opened:
        yield opened


@pytest.fixture
def nothing_written(gateway: Gateway) -> Iterator[None]:
    before = rows(gateway)
    yield
    assert rows(gateway) == before


@pytest.mark.usefixtures("nothing_written")
class TestFields:
    @pytest.mark.parametrize(("field", "value", "status", "code", "param"), FIELDS)
    def test_a_wrong_field_is_named(
        self, caller: httpx.Client, *, field: str, value: Any, status: int, code: str, param: str
    ) -> None:
        body = refused(caller.post("/v1/jobs", json={**PROBE, field: value}), status, code, param=param or field)
        for found in body["errors"]:
            assert set(found) == {"param", "code", "message"}

    @pytest.mark.parametrize(("spec", "status", "code", "param"), SPECS)
    def test_so_is_one_of_the_spec(
        self, caller: httpx.Client, *, spec: dict[str, Any], status: int, code: str, param: str
    ) -> None:
        given = inference(**spec)
        given["spec"] = {name: value for name, value in given["spec"].items() if value is not None}
        refused(caller.post("/v1/jobs", json=given), status, code, param=param)

    def test_every_wrong_field_is_named(self, caller: httpx.Client) -> None:
        body = caller.post("/v1/jobs", json={"kind": "probe", "priority": -1, "colour": 1}).json()
        assert {each["param"] for each in body["errors"]} == {"spec", "priority", "colour"}
        assert body["code"] == "validation_failed"

    def test_what_was_sent_is_not_sent_back(self, caller: httpx.Client) -> None:
        secret = "whsec_this-is-not-base64-but-a-secret"
        answer = caller.post("/v1/jobs", json={**PROBE, "webhook": {"url": HOOK, "secret": secret}})
        assert secret not in answer.text

    def test_an_unknown_kind_is_told_the_kinds(self, caller: httpx.Client) -> None:
        detail = caller.post("/v1/jobs", json={**PROBE, "kind": "x"}).json()["detail"]
        assert all(name in detail for name in names())


@pytest.mark.usefixtures("nothing_written")
class TestBodies:
    @pytest.mark.parametrize(("body", "status", "code", "param"), [pytest.param(*b[1:], id=b[0]) for b in BODIES])
    def test_only_json_is_read(
        self, caller: httpx.Client, *, body: bytes, status: int, code: str, param: str | None
    ) -> None:
        refused(caller.post("/v1/jobs", content=body, headers=JSON), status, code, param=param)

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
    def test_of_that_type_alone(self, caller: httpx.Client, kind: str) -> None:
        answer = caller.post("/v1/jobs", content=json.dumps(PROBE), headers={"content-type": kind})
        refused(answer, 415, "unsupported_media_type", param="Content-Type")

    def test_a_body_of_nine_megabytes_is_too_large(self, caller: httpx.Client) -> None:
        body = json.dumps(inference(prompts=["x" * 9 * MIB]))
        refused(caller.post("/v1/jobs", content=body, headers=JSON), 413, "body_too_large")

    def test_so_is_one_that_does_not_say_its_length(self, caller: httpx.Client) -> None:
        chunks = (b" " * MIB for _ in range(9))
        refused(caller.post("/v1/jobs", content=chunks, headers=JSON), 413, "body_too_large")

    def test_elsewhere_a_megabyte_is_the_limit(self, caller: httpx.Client) -> None:
        body = {"name": "a", "scopes": ["x" * MIB]}
        refused(caller.post("/v1/api_keys", json=body), 413, "body_too_large")

    def test_a_form_is_no_job_and_a_job_no_file(self, caller: httpx.Client) -> None:
        refused(caller.post("/v1/files", json=PROBE), 415, "unsupported_media_type", param="Content-Type")

    @pytest.mark.parametrize(
        ("form", "status", "code", "param"),
        [
            ({}, 422, "validation_failed", "purpose"),
            ({"purpose": "world domination"}, 400, "invalid_field", "purpose"),
            ({"purpose": "user_data", "colour": "red"}, 400, "unknown_parameter", "colour"),
            ({"purpose": ["user_data", "batch"]}, 422, "validation_failed", "purpose"),
            (
                {"purpose": "user_data", "expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
                400,
                "invalid_field",
                "expires_after[anchor]",
            ),
            (
                {"purpose": "user_data", "expires_after[anchor]": "created_at", "expires_after[seconds]": "1e9"},
                400,
                "invalid_field",
                "expires_after[seconds]",
            ),
        ],
    )
    def test_fields_of_a_form_are_named_too(
        self, caller: httpx.Client, *, form: dict[str, Any], status: int, code: str, param: str
    ) -> None:
        answer = caller.post("/v1/files", data=form, files={"file": ("a.txt", b"a")})
        refused(answer, status, code, param=param)

    def test_a_form_without_a_file(self, caller: httpx.Client) -> None:
        answer = caller.post("/v1/files", files={"purpose": (None, "user_data")})
        refused(answer, 422, "validation_failed", param="file")

    def test_a_form_that_is_none(self, caller: httpx.Client) -> None:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        refused(caller.post("/v1/files", content=b"--y\r\nnot a form", headers=headers), 400, "invalid_form")


@pytest.mark.usefixtures("nothing_written")
class TestCalls:
    @pytest.mark.parametrize(("method", "path", "body", "status", "code", "param"), CALLS)
    def test_each_has_its_refusal(
        self, caller: httpx.Client, *, method: str, path: str, body: Any, status: int, code: str, param: str | None
    ) -> None:
        refused(caller.request(method, path, json=body), status, code, param=param)


class TestAnything:
    """Whatever is sent, it is our caller's mistake or a job."""

    VALUES = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters(codec=None))
        | st.sampled_from(["probe", "inference", "auto", "cpu", PAST, NOWHERE, HOOK]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
    FIELD = st.sampled_from(
        [
            "kind", "spec", "gpu_class", "tier", "priority", "run_after", "deadline", "max_runtime_s", "max_failures",
            "metadata", "webhook", "after_job_id", "on_success", "paused",
        ]
    )  # fmt: skip
    SPEC = st.dictionaries(
        st.sampled_from(["model", "prompts", "messages", "input_file", "max_tokens", "seed", "stop", "steps", "pool"]),
        VALUES | st.just("tiny") | st.lists(st.text(), max_size=2),
        max_size=4,
    )
    JOB = st.builds(
        lambda kind, spec, more: {"kind": kind, "spec": spec, **more},
        st.sampled_from(["probe", "inference"]),
        SPEC,
        st.dictionaries(FIELD, VALUES, max_size=2),
    )

    @given(body=VALUES | JOB)
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_is_never_our_mistake(self, caller: httpx.Client, body: Any) -> None:
        sent = json.dumps(body).encode()  # surrogates and NaN are spelled as they are
        answer = caller.post("/v1/jobs", content=sent, headers=JSON)
        assert answer.status_code == 202 or 400 <= answer.status_code < 500, (sent, answer.text)
        if answer.status_code != 202:
            assert answer.json()["error"]["code"] == answer.json()["code"]

    def test_the_caller_still_can_submit(self, caller: httpx.Client) -> None:
        submit(caller)
