"""Examples of calibrations, quantizations and evaluations for the OpenAPI document."""

from typing import Any

JOB_ID = "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a40"
CALIBRATION_ID = "019b2f6e-9b12-7e01-8a33-51c2a7d9e5a0"
EVALUATION_ID = "019b2f6e-9b12-7e01-8a33-51c2a7d9e5a1"
ARTIFACT_ID = "019b2f6e-9b12-7e01-8a33-51c2a7d9e5a2"
REPORT_ID = "019b2f6e-9b12-7e01-8a33-51c2a7d9e5a3"
BASE_ID = "019b2f6e-1d00-7000-8000-0000000000b1"
MODEL_ID = "019b2f6e-1d00-7000-8000-0000000000b2"
FILE_ID = "file-019b2f6e8a517c3e9d440f6f1f6b2a10"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
ENDED = "2026-01-31T12:02:41.918227Z"

#: bodies of `POST /v1/jobs`
JOB_REQUESTS: dict[str, Any] = {
    "calibration": {
        "summary": "What a model's layers see, and what each scheme would cost them",
        "value": {
            "kind": "calibration",
            "spec": {
                "model": "llama-8b",
                "data": [{"type": "file", "file_id": FILE_ID, "weight": 3}, {"type": "library"}],
                "sampling": {"samples": 256, "sequence_length": 2048, "strategy": "diverse"},
            },
        },
    },
    "quantization": {
        "summary": "A smaller version of a model, registered if it is good enough",
        "value": {
            "kind": "quantization",
            "spec": {
                "model": "llama-8b",
                "scheme": "w4a16",
                "data": [{"type": "file", "file_id": FILE_ID}],
                "overrides": [{"layers": ["re:.*down_proj"], "scheme": "w8a16"}],
                "gate": {"max_ppl_increase": 0.02, "min_agreement": 0.9},
            },
            "gpu_class": "h200",
        },
    },
    "evaluation": {
        "summary": "A model judged beside another",
        "value": {
            "kind": "evaluation",
            "spec": {
                "model": "llama-8b-w4a16",
                "baseline": "llama-8b",
                "tasks": [{"type": "text"}, {"type": "choice", "file_id": FILE_ID}],
            },
        },
    },
}

SAMPLING = {
    "samples": 128,
    "sequence_length": 512,
    "strategy": "random",
    "reference": [],
    "share": 0.2,
    "seed": 0,
    "deduplicate": True,
    "min_characters": 16,
    "packed": True,
}
RESULT = {
    "job": JOB_ID,
    "model": MODEL_ID,
    "artifact": ARTIFACT_ID,
    "evaluation": EVALUATION_ID,
    "calibration": None,
    "file": None,
    "figures": None,
}
CALIBRATION: dict[str, Any] = {
    "id": CALIBRATION_ID,
    "object": "calibration",
    "job_id": JOB_ID,
    "model": "yard-tiny@1",
    "model_id": BASE_ID,
    "model_digest": DIGEST,
    "artifact_id": ARTIFACT_ID,
    "report_id": REPORT_ID,
    "data": [{"type": "library", "weight": 1.0}],
    "sampling": SAMPLING,
    "schemes": ["int8", "w8a16", "w4a16", "fp8-dynamic"],
    "group_size": 128,
    "facts": {
        "samples": 128,
        "sequence_length": 512,
        "tokens": 65536,
        "texts": 1804,
        "left_out": {"duplicate": 12},
        "sources": {"library": 410},
        "sha256": DIGEST,
    },
    "recommendation": {
        "scheme": "int8",
        "ignore": ["lm_head"],
        "smoothing_strength": 0.5,
        "reasons": ["int8 keeps every layer above 30 dB"],
    },
    "created_at": ENDED,
}
_SERVED = {
    "engine": "transformers",
    "gpu_class": "cpu",
    "devices": 1,
    "load_s": 1.9,
    "memory_bytes": 402653184,
    "ttft_ms": 21.5,
    "tokens_per_second": 96.4,
    "prompt_tokens": 128,
    "completion_tokens": 64,
}
BASELINE: dict[str, Any] = {
    "name": "yard-tiny@1",
    "bytes": 4194304,
    "weight_bytes": 3804160,
    "parameters": 1902080,
    "flops_per_token": 3756032,
    "load_s": 0.42,
    "peak_memory_bytes": 512753664,
    "served": _SERVED,
    "not_served": None,
}
CANDIDATE = BASELINE | {
    "name": "yard-tiny-int8@1",
    "bytes": 2621440,
    "weight_bytes": 2231296,
    "peak_memory_bytes": 511705088,
    "served": _SERVED | {"tokens_per_second": 88.2, "ttft_ms": 24.1},
}
TASK: dict[str, Any] = {
    "name": "text",
    "type": "text",
    "samples": 64,
    "tokens": 32768,
    "sha256": DIGEST,
    "candidate": {"perplexity": 67.59, "ppl_increase": 0.0006, "kl_divergence": 0.0011, "agreement": 0.981},
    "baseline": {"perplexity": 67.55},
    "signature": None,
    "skipped": {},
}
EVALUATION: dict[str, Any] = {
    "id": EVALUATION_ID,
    "object": "evaluation",
    "job_id": JOB_ID,
    "model": "yard-tiny-int8@1",
    "model_id": MODEL_ID,
    "baseline": "yard-tiny@1",
    "baseline_id": BASE_ID,
    "figures": {
        "candidate": CANDIDATE,
        "baseline": BASELINE,
        "tasks": [TASK],
        "device": "cpu",
        "seconds": 21.4,
    },
    "gate": {"max_ppl_increase": 0.02, "min_agreement": None, "max_kl_divergence": None},
    "passed": True,
    "failures": [],
    "report_id": REPORT_ID,
    "created_at": ENDED,
}


def _side(figures: dict[str, Any], *, version_id: str, dtype: str) -> dict[str, Any]:
    return {
        "id": figures["name"],
        "object": "model",
        "version_id": version_id,
        "digest": DIGEST,
        "dtype": dtype,
        "bytes": figures["bytes"],
        "parameters": figures["parameters"],
        "context_length": 512,
        "kv_bytes_per_token": 1536,
        "ready_replicas": 1,
        "gpu_classes": ["cpu"],
        "measured": figures,
        "device": "cpu",
    }


COMPARISON: dict[str, Any] = {
    "object": "model.comparison",
    "a": _side(BASELINE, version_id=BASE_ID, dtype="bf16"),
    "b": _side(CANDIDATE, version_id=MODEL_ID, dtype="int8"),
    "ratios": {
        "bytes": 0.625,
        "parameters": 1.0,
        "context_length": 1.0,
        "kv_bytes_per_token": 1.0,
        "flops_per_token": 1.0,
        "load_s": 1.0,
        "peak_memory_bytes": 0.997955,
        "served_load_s": 1.0,
        "served_memory_bytes": 1.0,
        "ttft_ms": 1.12093,
        "tokens_per_second": 0.914938,
    },
    "evaluation": EVALUATION_ID,
    "tasks": [
        {
            "name": "text",
            "type": "text",
            "samples": 64,
            "tokens": 32768,
            "sha256": DIGEST,
            "a": {"perplexity": 67.55},
            "b": {"perplexity": 67.59},
            "between": {"ppl_increase": 0.000592, "kl_divergence": 0.0011, "agreement": 0.981},
            "evaluation_a": EVALUATION_ID,
            "evaluation_b": EVALUATION_ID,
        }
    ],
    "lineage": {
        "base": "yard-tiny@1",
        "derived": "yard-tiny-int8@1",
        "steps": [
            {
                "type": "quantization",
                "job_id": JOB_ID,
                "base": {"id": BASE_ID, "name": "yard-tiny", "version": 1, "digest": DIGEST},
                "recipe": {"scheme": "int8", "method": "gptq"},
                "calibration": None,
                "data": [{"name": "library text of Python 3.11.9", "sha256": DIGEST}],
                "evaluation": EVALUATION_ID,
            }
        ],
    },
}

#: by the name of a listed resource's schema
ROWS: dict[str, dict[str, Any]] = {"CalibrationOut": CALIBRATION, "EvaluationOut": EVALUATION}
ANSWERS: dict[str, Any] = {"ResultOut": RESULT, "ComparisonOut": COMPARISON}
