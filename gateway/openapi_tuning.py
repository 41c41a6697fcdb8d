"""Examples of tunings, merges and OpenAI's fine-tuning jobs for the OpenAPI document."""

from typing import Any

from gateway.schemas.fine_tuning_request import FineTuneRequest

JOB_ID = "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a50"
FINE_TUNE_ID = "ftjob-019b2f6e8a517c3e9d440f6f1f6b2a50"
FILE_ID = "file-019b2f6e8a517c3e9d440f6f1f6b2a51"
RESULT_ID = "file-019b2f6e8a517c3e9d440f6f1f6b2a52"
TUNED = "ft:yard-tiny:default:support:1f6b2a50"

#: bodies of `POST /v1/jobs`
JOB_REQUESTS: dict[str, Any] = {
    "tuning": {
        "summary": "An adapter, trained on chats, that is merged, quantized and judged",
        "value": {
            "kind": "tuning",
            "spec": {
                "model": "llama-8b",
                "data": [{"type": "file", "file_id": FILE_ID}],
                "validation_share": 0.05,
                "preparation": {"near_duplicates": 0.9, "quality": True},
                "method": "lora",
                "lora": {"rank": 16, "alpha": 32},
                "training": {"epochs": 2, "packing": True, "early_stopping": {"patience": 3}},
                "suffix": "support",
            },
            "on_success": [{"kind": "merge", "spec": {"model": "$result"}}],
        },
    },
    "merge": {
        "summary": "An adapter added to its base, as a model that stands alone",
        "value": {"kind": "merge", "spec": {"model": TUNED, "name": "llama-8b-support"}},
    },
}

CREATE_REQUESTS: dict[str, Any] = {
    "supervised": {
        "summary": "As OpenAI's clients send it",
        "value": {
            "model": "yard-tiny",
            "training_file": FILE_ID,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}},
            "suffix": "support",
            "metadata": {"project": "docs"},
        },
    },
    "lora": {
        "summary": "With an adapter of one's own shape",
        "value": {
            "model": "yard-tiny",
            "training_file": FILE_ID,
            "lora": {"r": 32, "alpha": 64, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"], "lr": 0.0005},
        },
    },
}


def _schema() -> dict[str, Any]:
    """The request's schema in one piece: the route reads the body by itself, to answer 400 as OpenAI does."""
    made = FineTuneRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    own: dict[str, Any] = made.pop("$defs")
    inlined: dict[str, Any] = _inlined(made, own)
    return inlined


def _inlined(value: Any, own: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_inlined(each, own) for each in value]
    if not isinstance(value, dict):
        return value
    name = str(value.get("$ref", "")).rpartition("/")[2]
    whole = {**own[name], **{key: each for key, each in value.items() if key != "$ref"}} if name in own else value
    return {key: _inlined(each, own) for key, each in whole.items()}


CREATE: dict[str, Any] = {
    "requestBody": {"content": {"application/json": {"schema": _schema(), "examples": CREATE_REQUESTS}}},
}
LIST: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "description": "`metadata[key]=value`: jobs with all of these pairs; `metadata=null`: jobs that have none",
            "style": "deepObject",
            "explode": True,
            "schema": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        }
    ],
}

_NUMBERS = {"batch_size": 8, "learning_rate_multiplier": 1.0, "n_epochs": 2}
FINE_TUNE: dict[str, Any] = {
    "id": FINE_TUNE_ID,
    "object": "fine_tuning.job",
    "created_at": 1769860800,
    "error": None,
    "finished_at": 1769860842,
    "fine_tuned_model": TUNED,
    "hyperparameters": _NUMBERS,
    "model": "yard-tiny",
    "organization_id": "org-019b2f6e1d0070008000000000000001",
    "result_files": [RESULT_ID],
    "seed": 0,
    "status": "succeeded",
    "trained_tokens": 18432,
    "training_file": FILE_ID,
    "validation_file": None,
    "estimated_finish": None,
    "integrations": [],
    "method": {"type": "supervised", "supervised": {"hyperparameters": _NUMBERS}},
    "metadata": {"project": "docs"},
    "job_id": JOB_ID,
    "paused": False,
    "progress": {"done": 64, "total": 64, "unit": "steps", "rate": 6.4, "eta_s": None},
    "lora": {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear", "method": "lora"},
    "cost": 0.0006,
    "webhook": None,
}
EVENT: dict[str, Any] = {
    "id": "ftevent-m64",
    "object": "fine_tuning.job.event",
    "created_at": 1769860840,
    "level": "info",
    "message": "Step 64/64: training loss=0.8123",
    "type": "metrics",
    "data": {"step": 64, "train_loss": 0.8123, "train_mean_token_accuracy": 0.791, "learning_rate": 1.2e-05},
}
CHECKPOINT: dict[str, Any] = {
    "id": "ftckpt_019b2f6e9001700080000000000000f1",
    "object": "fine_tuning.job.checkpoint",
    "created_at": 1769860840,
    "fine_tuned_model_checkpoint": f"{TUNED}:ckpt-step-64",
    "fine_tuning_job_id": FINE_TUNE_ID,
    "step_number": 64,
    "metrics": {"step": 64.0, "train_loss": 0.8123, "train_mean_token_accuracy": 0.791},
}
METRIC: dict[str, Any] = {
    "id": 64,
    "object": "job.metric",
    "attempt": 1,
    "values": {"loss": 0.8123, "learning_rate": 1.2e-05, "grad_norm": 0.61, "tokens_per_second": 15876.0},
    "created_at": "2026-01-31T12:02:41.918227Z",
}

#: by the name of a listed resource's schema
ROWS: dict[str, dict[str, Any]] = {
    "FineTuneOut": FINE_TUNE,
    "FineTuneEventOut": EVENT,
    "FineTuneCheckpointOut": CHECKPOINT,
    "MetricOut": METRIC,
}
