"""Examples of the OpenAPI document. A test reads each with the model that it stands for."""

from typing import Any

from gateway import (
    openapi_batches,
    openapi_compression,
    openapi_documents,
    openapi_models,
    openapi_tuning,
    openapi_uploads,
)

JOB_ID = "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a10"
ARTIFACT_ID = "019b2f6e-9b12-7e01-8a33-51c2a7d9e4f0"
WORKER_ID = "019b2f60-1c02-7a90-b7a4-3f1e88c1d203"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
BEGAN, ENDED = "2026-01-31T12:00:01.204518Z", "2026-01-31T12:00:03.918227Z"
MOMENT = "2026-01-31T12:00:00.731842Z"

INFERENCE: dict[str, Any] = {
    "kind": "inference",
    "spec": {"model": "yard-tiny", "prompts": ["def add(a, b):", "import os"], "max_tokens": 48},
    "gpu_class": "auto",
    "metadata": {"project": "docs"},
}
JOB_REQUESTS: dict[str, Any] = {
    "inference": {"summary": "Prompts in, text out", "value": INFERENCE},
    "chat with a webhook": {
        "summary": "Chats in, text out, signed events on the way",
        "value": {
            "kind": "inference",
            "spec": {"model": "yard-tiny", "messages": [[{"role": "user", "content": "what does os.walk do?"}]]},
            "tier": "interactive",
            "priority": 7,
            "webhook": {"url": "https://example.com/hooks", "events": ["job.succeeded", "job.failed"]},
        },
    },
    "probe": {"summary": "Waiting, to see a class of workers", "value": {"kind": "probe", "spec": {"steps": 3}}},
}
API_KEY_REQUEST = {"name": "ci", "scopes": ["jobs:read", "jobs:write"]}

ARTIFACT: dict[str, Any] = {
    "id": ARTIFACT_ID,
    "object": "artifact",
    "job_id": JOB_ID,
    "attempt": 1,
    "name": "results.jsonl",
    "media_type": "application/jsonl",
    "bytes": 412,
    "sha256": DIGEST,
    "files": None,
    "created_at": ENDED,
    "content": f"/v1/artifacts/{ARTIFACT_ID}/content",
}
PLAN: dict[str, Any] = {
    "gpu_class": "cpu",
    "queue": "cpu.serve",
    "devices": 1,
    "tensor_parallel": 1,
    "memory_bytes": 9437184,
    "price_per_gpu_hour": 0.0,
    "reason": "the cheapest that fits among the classes with a live worker",
}
SPEC = {"model": "yard-tiny", "max_tokens": 48}
LINE = {
    "index": 0,
    "output": {
        "text": "\n    return a + b",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 8, "completion_tokens": 7},
    },
    "error": None,
}
_PARTS = ("events", "logs", "explain", "attempts", "checkpoints", "metrics", "webhook_deliveries")
JOB: dict[str, Any] = {
    "id": JOB_ID,
    "object": "job",
    "kind": "inference",
    "spec": SPEC,
    "state": "succeeded",
    "tier": "normal",
    "priority": 5,
    "gpu_class": "cpu",
    "queue": "cpu.serve",
    "progress": {"done": 2, "total": 2, "unit": "lines", "rate": 0.737, "eta_s": None},
    "attempt": 1,
    "failure_count": 0,
    "lost_count": 0,
    "max_failures": 3,
    "max_runtime_s": None,
    "error": None,
    "usage": {"prompt_tokens": 14, "completion_tokens": 55, "gpu_seconds": 2.7, "cost": 0.0},
    "metadata": {"project": "docs"},
    "webhook": None,
    "run_after": MOMENT,
    "deadline": None,
    "held_at": None,
    "cancel_requested_at": None,
    "after_job_id": None,
    "parent_id": None,
    "root_id": None,
    "retry_of": None,
    "plan": PLAN | {"planned_gpu_s": 1.9},
    "artifacts": [ARTIFACT],
    "results": [LINE],
    "created_at": MOMENT,
    "started_at": BEGAN,
    "finished_at": ENDED,
    "version": 4,
    "links": {"self": f"/v1/jobs/{JOB_ID}", **{part: f"/v1/jobs/{JOB_ID}/{part}" for part in _PARTS}},
}
DRAFT = {
    "object": "job.plan",
    "valid": True,
    "kind": "inference",
    "spec": SPEC,
    "plan": PLAN,
    "planned_gpu_s": 1.9,
    "cost": 0.0,
    "total": 2,
    "unit": "lines",
    "advice": None,
    "on_success": [],
}
EVENT = {
    "id": 2,
    "object": "job.event",
    "job_id": JOB_ID,
    "type": "job.started",
    "data": {"attempt": 1},
    "created_at": BEGAN,
}
LOG = {
    "id": 71,
    "object": "job.log",
    "attempt": 1,
    "level": "info",
    "message": "engine ready",
    "created_at": BEGAN,
}
ATTEMPT = {
    "id": "1",
    "object": "job.attempt",
    "attempt": 1,
    "worker_id": WORKER_ID,
    "claimed_at": BEGAN,
    "ended_at": ENDED,
    "outcome": "succeeded",
    "error": None,
}
CHECKPOINT = {
    "id": "019b2f6e-9001-7000-8000-000000000001",
    "object": "job.checkpoint",
    "attempt": 1,
    "step": 200,
    "fingerprint": DIGEST,
    "bytes": 1048576,
    "corrupt": False,
    "metrics": {"loss": 1.21, "learning_rate": 0.00019},
    "best": True,
    "model": None,
    "created_at": BEGAN,
}
DELIVERY = {
    "id": "evt_019b2f6e9c217d008a44b1c6d2e3f405",
    "object": "webhook_delivery",
    "job_id": JOB_ID,
    "seq": 4,
    "type": "job.succeeded",
    "url": "https://example.com/hooks",
    "state": "delivered",
    "tries": 1,
    "next_at": None,
    "created_at": ENDED,
    "delivered_at": ENDED,
    "attempts": [{"number": 1, "at": ENDED, "status": 200, "duration_ms": 41, "error": None, "response": "ok"}],
}
EXPLANATION = {
    "job_id": JOB_ID,
    "state": "queued",
    "cause": "ahead",
    "sentence": "2 jobs go first in cpu.serve.",
    "queue": "cpu.serve",
    "position": 3,
    "ahead": {"interactive": 0, "normal": 2},
    "depth": 9,
    "live_workers": 1,
    "free_slots": 0,
    "plan": PLAN,
    "share": {"weight": 1.0, "virtual_time": 41.5, "queue_virtual_time": 40.0},
    "waits_for": None,
    "starts_in_s": None,
    "children": 0,
    "children_ended": 0,
}
FILE = {
    "id": "file-019b2f6e8a517c3e9d440f6f1f6b2a10",
    "object": "file",
    "bytes": 120,
    "created_at": 1769860800,
    "expires_at": None,
    "filename": "prompts.jsonl",
    "purpose": "user_data",
    "status": "processed",
    "status_details": None,
    "sha256": DIGEST,
}
WORKER = {
    "id": WORKER_ID,
    "object": "worker",
    "host": "yard-1",
    "pid": 4711,
    "gpu_class": "cpu",
    "queues": ["cpu.serve", "cpu.forge"],
    "devices": [0],
    "gpu_model": None,
    "gpu_memory_bytes": None,
    "versions": {"python": "3.11.9", "modelyard": "0.1.0"},
    "slots": {"serve": {"free": 63, "total": 64}, "forge": {"free": 1, "total": 1}},
    "live": True,
    "draining": False,
    "engines": [],
    "started_at": MOMENT,
    "last_seen_at": ENDED,
    "last_bell_at": BEGAN,
    "stopped_at": None,
}
GPU_CLASS = {
    "id": "h200",
    "object": "gpu_class",
    "memory_gib": 140.4,
    "compute_capability": "9.0",
    "dtypes": ["bf16", "fp16", "fp8", "fp32"],
    "devices_per_host": 8,
    "price_per_gpu_hour": 3.5,
    "queues": ["h200.serve", "h200.forge"],
    "live_workers": 0,
}
API_KEY: dict[str, Any] = {
    "id": "019b2f6e-0101-7000-8000-0000000000a1",
    "object": "api_key",
    "key_id": "4Fq9ZkT1xYb2",
    "name": "ci",
    "scopes": ["jobs:read", "jobs:write"],
    "created_at": MOMENT,
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": None,
    "key": None,
}
CACHE = {
    "object": "cache",
    "enabled": True,
    "hits": 120,
    "misses": 60,
    "coalesced": 20,
    "hit_rate": 0.7,
    "stored": 58,
    "stored_bytes": 41_302,
    "purges": 1,
    "ttl_s": 86_400,
    "entry_bytes": 1_048_576,
}
READY = {
    "ready": True,
    "checks": {"postgres": {"ok": True, "needed": True, "latency_ms": 0.6, "error": None}},
}
PROBLEM = {
    "type": "/docs#validation_failed",
    "title": "A field is missing, unknown or has a wrong value.",
    "status": 422,
    "detail": "spec.max_tokens: Input should be greater than or equal to 1",
    "instance": "/v1/jobs",
    "code": "validation_failed",
    "param": "spec.max_tokens",
    "request_id": "req_019b2f6e8a517c3e9d440f6f1f6b2a10",
    "retryable": False,
    "errors": [
        {
            "param": "spec.max_tokens",
            "code": "greater_than_equal",
            "message": "Input should be greater than or equal to 1",
        }
    ],
    "error": {
        "message": "spec.max_tokens: Input should be greater than or equal to 1",
        "type": "invalid_request_error",
        "param": "spec.max_tokens",
        "code": "validation_failed",
    },
}


def _page(row: dict[str, Any]) -> dict[str, Any]:
    name = str(row["id"])
    return {"object": "list", "data": [row], "first_id": name, "last_id": name, "has_more": False}


_ROWS: dict[str, dict[str, Any]] = {
    "JobOut": JOB,
    "EventOut": EVENT,
    "LogOut": LOG,
    "AttemptOut": ATTEMPT,
    "CheckpointOut": CHECKPOINT,
    "DeliveryOut": DELIVERY,
    "FileOut": FILE,
    "WorkerOut": WORKER,
    "GpuClassOut": GPU_CLASS,
    "ApiKeyOut": API_KEY,
    **openapi_batches.ROWS,
    **openapi_compression.ROWS,
    **openapi_documents.ROWS,
    **openapi_tuning.ROWS,
}
#: by the name of the schema that an answer has
ANSWERS: dict[str, Any] = {
    **_ROWS,
    **{f"Page_{name}_": _page(row) for name, row in _ROWS.items()},
    "ArtifactOut": ARTIFACT,
    "DraftOut": DRAFT,
    "Explanation": EXPLANATION,
    "FileDeleted": {"id": FILE["id"], "object": "file", "deleted": True},
    **openapi_compression.ANSWERS,
    **openapi_models.ANSWERS,
    **openapi_documents.ANSWERS,
    **openapi_uploads.ANSWERS,
    "CacheOut": CACHE,
    "CachePurged": {"object": "cache", "purged": True, "model": "yard-tiny"},
    "Live": {"status": "live"},
    "Ready": READY,
}
