"""The OpenAPI document: which routes there are, and that its examples are true."""

from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from gateway import (
    openapi,
    openapi_batches,
    openapi_documents,
    openapi_examples,
    openapi_models,
    openapi_tuning,
    openapi_uploads,
)
from gateway.app import create_app
from gateway.readiness import Ready
from gateway.routes.health import Live
from gateway.schemas.api_keys import ApiKeyOut, ApiKeyRequest
from gateway.schemas.artifacts import ArtifactOut
from gateway.schemas.batches import BatchOut, BatchRequest
from gateway.schemas.cache import CacheOut, CachePurged
from gateway.schemas.common import Page, Problem
from gateway.schemas.compression import CalibrationOut, ComparisonOut, EvaluationOut
from gateway.schemas.document_sets import DocumentRecordOut, DocumentSetOut, DocumentSetRequest
from gateway.schemas.domain_packs import DomainPackDetail, DomainPackOut
from gateway.schemas.files import FileDeleted, FileOut
from gateway.schemas.fine_tuning import FineTuneCheckpointOut, FineTuneEventOut, FineTuneOut
from gateway.schemas.fine_tuning_request import FineTuneRequest
from gateway.schemas.job_parts import AttemptOut, CheckpointOut, EventOut, LogOut, MetricOut, ResultOut
from gateway.schemas.jobs import DraftOut, JobOut
from gateway.schemas.models import (
    AliasDeleted,
    AliasList,
    AliasOut,
    AliasRequest,
    ModelChange,
    ModelDeleted,
    ModelDetail,
    ModelList,
    ModelOut,
)
from gateway.schemas.uploads import CompleteRequest, UploadOut, UploadPartOut, UploadRequest
from gateway.schemas.webhooks import DeliveryOut
from gateway.schemas.workers import GpuClassOut, WorkerOut
from services.jobs.explain import Explanation
from services.jobs.kinds import kind
from shared.contracts.imports import ImportSpec
from shared.contracts.jobs import JobRequest
from shared.settings import Settings
from tests.gateway.conftest import Gateway

ROUTES = [
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
    "GET /v1/api_keys",
    "POST /v1/api_keys",
    "DELETE /v1/api_keys/{id}",
    "GET /v1/api_keys/{id}",
    "GET /v1/artifacts/{artifact_id}",
    "GET /v1/artifacts/{artifact_id}/content",
    "GET /v1/batches",
    "POST /v1/batches",
    "GET /v1/batches/{batch_id}",
    "POST /v1/batches/{batch_id}/cancel",
    "POST /v1/batches/{batch_id}/retry",
    "DELETE /v1/cache",
    "GET /v1/cache",
    "GET /v1/calibrations",
    "GET /v1/calibrations/{calibration_id}",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "GET /v1/document_sets",
    "POST /v1/document_sets",
    "GET /v1/document_sets/{document_set_id}",
    "POST /v1/document_sets/{document_set_id}/cancel",
    "GET /v1/document_sets/{document_set_id}/results",
    "GET /v1/domain_packs",
    "GET /v1/domain_packs/{pack}",
    "POST /v1/embeddings",
    "GET /v1/evaluations",
    "GET /v1/evaluations/{evaluation_id}",
    "GET /v1/files",
    "POST /v1/files",
    "DELETE /v1/files/{file_id}",
    "GET /v1/files/{file_id}",
    "GET /v1/files/{file_id}/content",
    "GET /v1/fine_tuning/jobs",
    "POST /v1/fine_tuning/jobs",
    "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}",
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel",
    "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
    "GET /v1/fine_tuning/jobs/{fine_tuning_job_id}/events",
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/pause",
    "POST /v1/fine_tuning/jobs/{fine_tuning_job_id}/resume",
    "GET /v1/gpu_classes",
    "GET /v1/jobs",
    "POST /v1/jobs",
    "GET /v1/jobs/{job_id}",
    "GET /v1/jobs/{job_id}/attempts",
    "POST /v1/jobs/{job_id}/cancel",
    "GET /v1/jobs/{job_id}/checkpoints",
    "GET /v1/jobs/{job_id}/events",
    "GET /v1/jobs/{job_id}/explain",
    "GET /v1/jobs/{job_id}/logs",
    "GET /v1/jobs/{job_id}/metrics",
    "POST /v1/jobs/{job_id}/pause",
    "GET /v1/jobs/{job_id}/result",
    "POST /v1/jobs/{job_id}/resume",
    "POST /v1/jobs/{job_id}/retry",
    "GET /v1/jobs/{job_id}/webhook_deliveries",
    "GET /v1/model_aliases",
    "DELETE /v1/model_aliases/{alias}",
    "PUT /v1/model_aliases/{alias}",
    "GET /v1/models",
    "POST /v1/models",
    "GET /v1/models/{a}/compare/{b}",
    "DELETE /v1/models/{model}",
    "GET /v1/models/{model}",
    "PATCH /v1/models/{model}",
    "GET /v1/models/{model}/versions",
    "POST /v1/uploads",
    "POST /v1/uploads/{upload_id}/cancel",
    "POST /v1/uploads/{upload_id}/complete",
    "POST /v1/uploads/{upload_id}/parts",
    "GET /v1/workers",
]

JOB_REQUESTS: dict[str, Any] = openapi.JOB_REQUESTS
CATALOGUE = [ModelOut, ModelDetail, ModelList, ModelDeleted, AliasOut, AliasList, AliasDeleted]
ROWS = [JobOut, EventOut, LogOut, AttemptOut, CheckpointOut, DeliveryOut, FileOut, WorkerOut, GpuClassOut, ApiKeyOut]
ROWS += [BatchOut, CalibrationOut, EvaluationOut, DocumentSetOut, DocumentRecordOut, DomainPackOut]
ROWS += [FineTuneOut, FineTuneEventOut, FineTuneCheckpointOut, MetricOut]
WHOLE = [ArtifactOut, DraftOut, Explanation, FileDeleted, *CATALOGUE, CacheOut, CachePurged, Live, Ready]
WHOLE += [ResultOut, ComparisonOut]
MODELS: dict[str, Any] = {each.__name__: each for each in [*ROWS, *WHOLE]}
MODELS |= {"DomainPackDetail": DomainPackDetail, "UploadOut": UploadOut, "UploadPartOut": UploadPartOut}
MODELS |= {f"Page_{row.__name__}_": Page[row] for row in ROWS}  # type: ignore[valid-type]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.document(create_app(Settings()))


class TestDocument:
    def test_these_are_the_routes(self, document: dict[str, Any]) -> None:
        found = [f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods]
        assert sorted(found, key=lambda line: line.split()[::-1]) == ROUTES

    def test_every_answer_has_an_example_or_is_bytes(self, document: dict[str, Any]) -> None:
        without = [
            (operation["operationId"], status)
            for operation in openapi.operations(document)
            for status, answer in operation["responses"].items()
            for media_type, media in answer.get("content", {}).items()
            if media_type.endswith("json") and "example" not in media
        ]
        assert without == []

    def test_every_request_has_one_too(self, document: dict[str, Any]) -> None:
        bodies = [operation.get("requestBody", {}).get("content", {}) for operation in openapi.operations(document)]
        json_bodies = [body["application/json"] for body in bodies if "application/json" in body]
        assert len(json_bodies) >= 5
        assert all("example" in body or "examples" in body for body in json_bodies)

    def test_every_keyed_call_says_its_scope_and_its_errors(self, document: dict[str, Any]) -> None:
        for operation in openapi.operations(document):
            if "health" not in operation["tags"]:
                assert operation["security"] == [{openapi.KEY: []}]
                assert f"Scope: `{operation[openapi.SCOPE]}`." in operation["description"]
                error = operation["responses"]["default"]["content"]["application/problem+json"]
                assert error["schema"] == {"$ref": "#/components/schemas/Problem"}

    def test_every_reference_leads_somewhere(self, document: dict[str, Any]) -> None:
        def references(value: Any) -> set[str]:
            if isinstance(value, list):
                return set().union(*map(references, value))
            if isinstance(value, dict):
                own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
                return own.union(*map(references, value.values()))
            return set()

        for reference in references(document):
            assert reference.rpartition("/")[2] in document["components"]["schemas"], reference

    def test_it_is_served(self, gateway: Gateway, document: dict[str, Any]) -> None:
        assert httpx.get(f"{gateway.url}/openapi.json").json() == document


class TestExamples:
    @pytest.mark.parametrize("name", sorted(openapi_examples.ANSWERS))
    def test_an_answer_is_of_its_model(self, name: str) -> None:
        example = openapi_examples.ANSWERS[name]
        adapter = TypeAdapter(MODELS[name])
        assert adapter.dump_python(adapter.validate_python(example), mode="json") == example

    def test_the_problem_is_one(self) -> None:
        assert Problem.model_validate(openapi_examples.PROBLEM).model_dump() == openapi_examples.PROBLEM

    @pytest.mark.parametrize("name", sorted(JOB_REQUESTS))
    def test_a_job_request_would_be_read(self, name: str) -> None:
        request = JobRequest.model_validate(JOB_REQUESTS[name]["value"])
        kind(request.kind).spec.model_validate(request.spec)

    @pytest.mark.parametrize("name", sorted(openapi_models.REGISTER_REQUESTS))
    def test_a_registration_would_be_read(self, name: str) -> None:
        ImportSpec.model_validate(openapi_models.REGISTER_REQUESTS[name]["value"])

    def test_changes_of_models_and_aliases_would_be_read(self) -> None:
        ModelChange.model_validate(openapi_models.CHANGE_REQUEST)
        AliasRequest.model_validate(openapi_models.ALIAS_REQUEST)

    @pytest.mark.parametrize("name", sorted(openapi_documents.DOCUMENT_REQUESTS))
    def test_a_document_set_would_be_read(self, name: str) -> None:
        DocumentSetRequest.model_validate(openapi_documents.DOCUMENT_REQUESTS[name]["value"])

    def test_upload_requests_would_be_read(self) -> None:
        UploadRequest.model_validate(openapi_uploads.NEW_UPLOAD)
        CompleteRequest.model_validate(openapi_uploads.COMPLETE)

    @pytest.mark.parametrize("name", sorted(openapi_batches.CREATE_REQUESTS))
    def test_a_batch_would_be_created(self, name: str) -> None:
        BatchRequest.of(openapi_batches.CREATE_REQUESTS[name]["value"])

    @pytest.mark.parametrize("name", sorted(openapi_tuning.CREATE_REQUESTS))
    def test_a_fine_tuning_job_would_be_created(self, name: str) -> None:
        FineTuneRequest.of(openapi_tuning.CREATE_REQUESTS[name]["value"])

    def test_a_key_request_would_be_read(self) -> None:
        ApiKeyRequest.model_validate(openapi_examples.API_KEY_REQUEST)
