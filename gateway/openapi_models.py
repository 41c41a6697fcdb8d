"""Examples of models and their registration for the OpenAPI document."""

from typing import Any

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
VERSION_ID = "019b2f6e-1d00-7000-8000-0000000000b1"
COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659"

REGISTER_REQUESTS: dict[str, Any] = {
    "a folder of the host": {
        "summary": "A folder below the setting models_root",
        "value": {"name": "yard-tiny", "source": {"type": "folder", "path": "yard-tiny"}},
    },
    "uploads": {
        "summary": "Files of purpose `model`",
        "value": {
            "name": "yard-tiny",
            "source": {
                "type": "files",
                "files": {"config.json": "file-019b2f6e8a517c3e9d440f6f1f6b2a10"},
            },
        },
    },
    "an S3 prefix": {
        "summary": "Objects of the platform's store, below an entry of the setting models_s3",
        "value": {"name": "llama-8b", "source": {"type": "s3", "prefix": "imports/llama-8b/"}, "alias": "prod"},
    },
    "the Hugging Face Hub": {
        "summary": "A repository at one commit, fetched by a worker",
        "value": {
            "name": "meta-llama/Llama-3.1-8B-Instruct",
            "source": {
                "type": "huggingface",
                "repo_id": "meta-llama/Llama-3.1-8B-Instruct",
                "revision": COMMIT,
            },
            "serving": {"engine": "vllm", "context_length": 32768},
        },
    },
    "an adapter": {
        "summary": "A LoRA adapter, served beside its base",
        "value": {
            "name": "support-bot",
            "base_model": "llama-8b",
            "source": {"type": "folder", "path": "adapters/support-bot"},
        },
    },
}
CHANGE_REQUEST = {"serving": {"max_in_flight": 128, "batching": {"policy": "elastic", "target_latency_ms": 2000}}}
ALIAS_REQUEST = {"model": "llama-8b@2"}

MODEL: dict[str, Any] = {
    "id": "yard-tiny",
    "object": "model",
    "created": 1769860800,
    "owned_by": "default",
    "context_length": 512,
    "parameters": 1902080,
    "dtype": "bf16",
    "bytes": 7612160,
    "version": 1,
    "version_id": VERSION_ID,
    "digest": DIGEST,
    "parent": None,
    "adapter": None,
    "aliases": ["prod"],
    "ready_replicas": 1,
    "gpu_class": "cpu",
}
DETAIL: dict[str, Any] = {
    **MODEL,
    "serving": {"max_in_flight": 128},
    "source": {"type": "folder", "path": "yard-tiny"},
    "loading_error": None,
    "memory": [
        {"dtype": "bf16", "weight_bytes": 3804160, "kv_bytes_per_token": 1536, "context_bytes": 786432},
        {"dtype": "fp32", "weight_bytes": 7608320, "kv_bytes_per_token": 3072, "context_bytes": 1572864},
    ],
    "gpu_classes": [
        {"gpu_class": "cpu", "devices": 1, "dtype": "fp32", "memory_bytes": 9181184, "price_per_hour": 0.05}
    ],
}
ALIAS = {"id": "prod", "object": "model_alias", "model": "yard-tiny@1", "version_id": VERSION_ID}
ANSWERS: dict[str, Any] = {
    "ModelOut": MODEL,
    "ModelDetail": DETAIL,
    "ModelList": {"object": "list", "data": [MODEL]},
    "ModelDeleted": {"id": "yard-tiny", "object": "model", "deleted": True},
    "AliasOut": ALIAS,
    "AliasList": {"object": "list", "data": [ALIAS]},
    "AliasDeleted": {"id": "prod", "object": "model_alias", "deleted": True},
}
