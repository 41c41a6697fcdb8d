"""OpenAI's own client against a gateway: its errors, pages, retries and request ids."""

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.gateway.conftest import Gateway
from tests.gateway.served import MODEL, NOWHERE, PROBE, inference, register, rows

INVALID = openai.UnprocessableEntityError
TOO_MANY = inference(max_tokens=10**9)
REFUSALS: list[tuple[str, str, Any, type[openai.APIStatusError], str, str | None]] = [
    ("POST", "/jobs", {**PROBE, "priority": -1}, INVALID, "validation_failed", "priority"),
    ("POST", "/jobs", {**PROBE, "gpu_class": "x"}, INVALID, "unknown_gpu_class", "gpu_class"),
    ("POST", "/jobs", TOO_MANY, INVALID, "validation_failed", "spec.max_tokens"),
    ("POST", "/jobs", {**PROBE, "colour": 1}, openai.BadRequestError, "unknown_parameter", "colour"),
    ("POST", "/jobs", inference(model="x"), openai.NotFoundError, "model_not_found", "spec.model"),
    ("GET", f"/jobs/{NOWHERE}", None, openai.NotFoundError, "not_found", "job_id"),
    ("GET", "/files/file-x", None, openai.NotFoundError, "not_found", "file_id"),
    ("GET", "/files?after=file-x", None, openai.BadRequestError, "invalid_cursor", "after"),
    ("POST", "/responses", {"model": "m", "input": "hi"}, openai.NotFoundError, "unknown_route", None),
]


class Lossy(httpx2.HTTPTransport):
    """A network that loses the answers to the first requests, after the gateway has done what they ask."""

    def __init__(self, *, lost: int) -> None:
        super().__init__()
        self.lost = lost
        self.sent: list[httpx2.Request] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = super().handle_request(request)
        self.sent.append(request)
        if len(self.sent) <= self.lost:
            answer.close()
            raise httpx2.ReadError("the connection broke", request=request)
        return answer


@pytest.fixture
def network() -> Lossy:
    return Lossy(lost=0)


@pytest.fixture
def sdk(gateway: Gateway, network: Lossy) -> Iterator[OpenAI]:
    tenant = gateway.tenant()
    for name in (MODEL, "org/tiny"):
        register(gateway, tenant, name=name)
    key = gateway.key(tenant=tenant)
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=key, http_client=httpx2.Client(transport=network)) as client:
        yield client


def post(sdk: OpenAI, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """A call beside the client's own resources."""
    answer = sdk.post(path, body=body, cast_to=httpx2.Response, options={"headers": headers or {}})
    found: dict[str, Any] = answer.json()
    return found


class TestModels:
    def test_they_are_listed_and_found(self, sdk: OpenAI) -> None:
        page = sdk.models.list()
        assert [model.id for model in page] == ["org/tiny", MODEL]
        assert page._request_id
        assert sdk.models.retrieve("org/tiny").id == "org/tiny"

    def test_one_that_is_not_there(self, sdk: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            sdk.models.retrieve("gpt-5")
        assert (caught.value.code, caught.value.type) == ("model_not_found", "invalid_request_error")
        assert "gpt-5" in caught.value.message


class TestErrors:
    """Each status has the class that the client's users catch, with all that it reads."""

    @pytest.mark.parametrize(("method", "path", "body", "kind", "code", "param"), REFUSALS)
    def test_a_status_is_its_class(
        self,
        sdk: OpenAI,
        network: Lossy,
        *,
        method: str,
        path: str,
        body: Any,
        kind: type[openai.APIStatusError],
        code: str,
        param: str | None,
    ) -> None:
        call = sdk.get if method == "GET" else sdk.post
        extra = {} if body is None else {"body": body}
        with pytest.raises(kind) as caught:
            call(path, cast_to=httpx2.Response, **extra)
        error = caught.value
        assert type(error) is kind
        assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
        assert error.request_id == error.response.headers["x-request-id"]
        assert error.message
        assert len(network.sent) == 1  # nothing of this gets better by trying again

    def test_who_has_no_key(self, gateway: Gateway) -> None:
        stranger = OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-none")
        with stranger, pytest.raises(openai.AuthenticationError) as caught:
            stranger.models.list()
        assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
        assert caught.value.request_id

    def test_who_has_no_scope(self, gateway: Gateway) -> None:
        reader = OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key("jobs:read"))
        with reader, pytest.raises(openai.PermissionDeniedError) as caught:
            reader.models.list()
        assert (caught.value.code, caught.value.type) == ("missing_scope", "permission_error")

    def test_a_conflict_that_stays_is_not_tried_again(self, sdk: OpenAI, network: Lossy) -> None:
        job = post(sdk, "/jobs", PROBE)
        post(sdk, f"/jobs/{job['id']}/cancel")
        before = len(network.sent)
        with pytest.raises(openai.ConflictError) as caught:
            post(sdk, f"/jobs/{job['id']}/pause")
        assert caught.value.code == "already_finished"
        assert len(network.sent) == before + 1


class TestRetries:
    def test_a_lost_answer_makes_no_second_job(self, gateway: Gateway, sdk: OpenAI, network: Lossy) -> None:
        before = rows(gateway)["jobs"]
        network.lost = 2
        job = post(sdk, "/jobs", PROBE)
        assert [request.headers["x-stainless-retry-count"] for request in network.sent] == ["0", "1", "2"]
        assert rows(gateway)["jobs"] == before + 1
        network.lost = 0
        assert sdk.get(f"/jobs/{job['id']}", cast_to=httpx2.Response).json()["state"] == "queued"

    def test_nor_does_one_with_a_key(self, gateway: Gateway, sdk: OpenAI, network: Lossy) -> None:
        before = rows(gateway)["jobs"]
        network.lost = 1
        first = post(sdk, "/jobs", PROBE, headers={"Idempotency-Key": "mine"})
        again = post(sdk, "/jobs", PROBE, headers={"Idempotency-Key": "mine"})
        assert (first, rows(gateway)["jobs"]) == (again, before + 1)


class TestFiles:
    def test_pages_are_walked(self, sdk: OpenAI) -> None:
        made = [sdk.files.create(file=(f"{n}.jsonl", b"{}\n"), purpose="batch").id for n in range(5)]
        assert [file.id for file in sdk.files.list(limit=2)] == made[::-1]
        assert [file.id for file in sdk.files.list(limit=2, order="asc", purpose="batch")] == made
        assert list(sdk.files.list(purpose="evals")) == []

    def test_a_file_lives_its_life(self, sdk: OpenAI) -> None:
        expiry: Any = {"anchor": "created_at", "seconds": 3600}
        made = sdk.files.create(file=("a.jsonl", b'{"prompt": "a"}\n'), purpose="user_data", expires_after=expiry)
        assert made.expires_at == made.created_at + 3600
        assert sdk.files.retrieve(made.id) == made
        assert sdk.files.wait_for_processing(made.id).status == "processed"
        assert sdk.files.content(made.id).read() == b'{"prompt": "a"}\n'
        part = sdk.files.content(made.id, extra_headers={"range": "bytes=2-7"})
        assert (part.response.status_code, part.read()) == (206, b"prompt")
        assert sdk.files.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            sdk.files.retrieve(made.id)
