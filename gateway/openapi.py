"""The OpenAPI document: FastAPI's, with our key, scopes, one error schema and an example for every answer."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway import openapi_batches as examples_of_batches
from gateway import openapi_compression as examples_of_compression
from gateway import openapi_documents as examples_of_documents
from gateway import openapi_examples as examples
from gateway import openapi_models as examples_of_models
from gateway import openapi_tuning as examples_of_tuning
from gateway import openapi_uploads as examples_of_uploads
from gateway.errors import PROBLEM_JSON
from gateway.schemas.common import Problem

SCOPE = "x-scope"  #: extension of an operation: the scope that the key needs
KEY = "api_key"
TITLE = "Modelyard"
ABOUT = """\
Large-language-model work as durable jobs. Every call but `/health/*`, this document and `/docs` needs an API key in
`Authorization: Bearer modelyard_…`. Lists are keyset pages (`after`, `limit`, `has_more`). Errors are RFC 9457
problems. Limits: bodies 1 MiB, `POST /v1/jobs` and inference 8 MiB, files 512 MiB, parts of uploads 64 MiB; JSON at
most 32 levels deep.
"""
TAGS = [
    {"name": "jobs", "description": "Work: submit it, watch it, stop it."},
    {"name": "artifacts", "description": "Results."},
    {"name": "inference", "description": "Chats, completions and embeddings, answered at once; OpenAI's shapes."},
    {"name": "files", "description": "Uploads; OpenAI's shapes."},
    {"name": "batches", "description": "Files of requests, run within a window; OpenAI's shapes."},
    {"name": "documents", "description": "Documents in, checked tables out."},
    {"name": "fine_tuning", "description": "Models trained on examples; OpenAI's shapes."},
    {"name": "compression", "description": "Calibrations and evaluations: what smaller models cost, and gain."},
    {"name": "models", "description": "What `model` may name; OpenAI's shapes."},
    {"name": "yard", "description": "What this deployment is made of."},
    {"name": "api_keys", "description": "Who may call."},
    {"name": "health", "description": "For whoever keeps the processes running."},
]
JOB_REQUESTS = examples.JOB_REQUESTS | examples_of_compression.JOB_REQUESTS | examples_of_tuning.JOB_REQUESTS
SUBMIT: dict[str, Any] = {
    "requestBody": {"content": {"application/json": {"examples": JOB_REQUESTS}}},
    "parameters": [
        {
            "name": "wait",
            "in": "query",
            "description": "seconds to wait for the end of the job; at most 60",
            "schema": {"type": "number", "minimum": 0, "default": 0},
        },
        {
            "name": "validate_only",
            "in": "query",
            "description": "check and plan, write nothing",
            "schema": {"type": "boolean", "default": False},
        },
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "one job however often it is sent; kept for a day",
            "schema": {"type": "string", "maxLength": 255},
        },
        {
            "name": "Prefer",
            "in": "header",
            "description": "`wait=30`: RFC 7240's spelling of `?wait=30`",
            "schema": {"type": "string"},
        },
    ],
}
REGISTER: dict[str, Any] = {
    "requestBody": {"content": {"application/json": {"examples": examples_of_models.REGISTER_REQUESTS}}},
    "parameters": SUBMIT["parameters"],
}
READ_DOCUMENTS: dict[str, Any] = {
    "requestBody": examples_of_documents.READ_DOCUMENTS_BODY,
    "parameters": SUBMIT["parameters"],
}
CREATE_BATCH = examples_of_batches.CREATE
CREATE_FINE_TUNE = examples_of_tuning.CREATE
LIST_FINE_TUNES = examples_of_tuning.LIST
CHANGE_MODEL = {"requestBody": {"content": {"application/json": {"example": examples_of_models.CHANGE_REQUEST}}}}
POINT_ALIAS = {"requestBody": {"content": {"application/json": {"example": examples_of_models.ALIAS_REQUEST}}}}
KEY_REQUEST = {"requestBody": {"content": {"application/json": {"example": examples.API_KEY_REQUEST}}}}
UPLOAD_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                        "purpose": {"type": "string", "examples": ["user_data", "batch", "fine-tune"]},
                        "expires_after[anchor]": {"type": "string", "const": "created_at"},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                }
            }
        },
    }
}
NEW_UPLOAD_REQUEST = {"requestBody": {"content": {"application/json": {"example": examples_of_uploads.NEW_UPLOAD}}}}
PART_REQUEST = {"requestBody": {"required": True, "content": examples_of_uploads.PART_FORM}}
COMPLETE_REQUEST = {"requestBody": {"content": {"application/json": {"example": examples_of_uploads.COMPLETE}}}}
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "the bytes", "content": _BYTES},
    206: {"description": "the range asked for", "content": _BYTES},
    304: {"description": "the caller has this content"},
    416: {"description": "the range begins after the end"},
}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=TITLE, version=app.version, description=ABOUT, tags=TAGS, routes=app.routes, servers=[{"url": "/"}]
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas.update(_problem())
        made["components"]["securitySchemes"] = {KEY: {"type": "http", "scheme": "bearer"}}
        for operation in operations(made):
            _complete(operation)
        app.openapi_schema = made
    return app.openapi_schema


def operations(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every operation of a document."""
    for path in made["paths"].values():
        yield from path.values()


def _complete(operation: dict[str, Any]) -> None:
    if scope := operation.get(SCOPE):
        operation["security"] = [{KEY: []}]
        operation["description"] = f"{operation.get('description', '')}\n\nScope: `{scope}`."
        error = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": examples.PROBLEM}
        operation["responses"]["default"] = {"description": "an error", "content": {PROBLEM_JSON: error}}
    operation["responses"].pop("422", None)
    for answer in operation["responses"].values():
        for media in answer.get("content", {}).values():
            name = media.get("schema", {}).get("$ref", "").rpartition("/")[2]
            if name in examples.ANSWERS:
                media["example"] = examples.ANSWERS[name]


def _problem() -> dict[str, Any]:
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    inner: dict[str, Any] = schema.pop("$defs")
    return {"Problem": schema, **inner}
