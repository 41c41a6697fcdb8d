"""What forges find, made up: figures, calibrations and checkpoints for tests of what becomes of them."""

import struct
import zlib
from typing import Any

from services.compression.about import Origin, Quantized
from shared.contracts.compression import LayerSensitivity, Method, Override, Recommendation, Scheme
from shared.contracts.evaluation import EvaluationFigures, Gate, ModelFigures, ServedFigures, TaskResult, Verdict
from shared.contracts.forge_orders import CalibrationResult, QuantizationResult, SampleFacts

SHA, OTHER_SHA = "ab" * 32, "cd" * 32
JOB = "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a40"
SERVED = ServedFigures(
    engine="vllm",
    gpu_class="h200",
    devices=1,
    load_s=31.2,
    memory_bytes=120 * 2**30,
    ttft_ms=20.0,
    tokens_per_second=120.0,
    prompt_tokens=128,
    completion_tokens=64,
)
TEXTS = [
    Origin("chats.jsonl (file-1)", SHA, bytes=2048, weight=3.0),
    Origin("library text of Python 3.11.9", OTHER_SHA),
]


def model(name: str, size: int, **fields: Any) -> ModelFigures:
    """A checkpoint of `size` bytes."""
    values: dict[str, Any] = {
        "bytes": size,
        "weight_bytes": size,
        "parameters": 1_902_080,
        "flops_per_token": 3_756_032,
        "load_s": 0.5,
        "peak_memory_bytes": 10 * size,
    }
    return ModelFigures(name=name, **(values | fields))


def text(before: float | None, after: float, **fields: Any) -> TaskResult:
    """A task of texts: its perplexities, alone if there is none before."""
    beside = {} if before is None else {"ppl_increase": after / before - 1, "kl_divergence": 0.01, "agreement": 0.96}
    values: dict[str, Any] = {"name": "text", "samples": 64, "tokens": 32768, "sha256": SHA}
    baseline = None if before is None else {"perplexity": before}
    return TaskResult(type="text", candidate={"perplexity": after} | beside, baseline=baseline, **(values | fields))


def figures(*tasks: TaskResult, **fields: Any) -> EvaluationFigures:
    """A model of half the original's size beside it."""
    values: dict[str, Any] = {
        "candidate": model("tiny-int8", 2_000_000),
        "baseline": model("tiny@1", 4_000_000),
        "tasks": list(tasks) or [text(50.0, 51.0)],
        "device": "cpu",
        "seconds": 12.0,
    }
    return EvaluationFigures(**(values | fields))


def layer(name: str, **sqnr_db: float) -> LayerSensitivity:
    """A layer's row."""
    return LayerSensitivity(layer=name, shape=(64, 128), sqnr_db=sqnr_db)


def calibration(*layers: LayerSensitivity, **recommended: Any) -> CalibrationResult:
    """A calibration that recommends w4a16."""
    values: dict[str, Any] = {"scheme": Scheme.W4A16, "ignore": ["lm_head"], "reasons": ["small enough"]}
    return CalibrationResult(
        facts=facts(),
        sensitivity=list(layers),
        recommendation=Recommendation(**(values | recommended)),
        seconds=4.2,
    )


def facts() -> SampleFacts:
    """128 samples of two sources."""
    return SampleFacts(
        samples=128,
        sequence_length=256,
        tokens=32768,
        texts=1804,
        left_out={"too_short": 3, "duplicate": 0},
        sources={"chats.jsonl": 100, "library": 28},
        sha256=SHA,
    )


def quantized(**fields: Any) -> Quantized:
    """A w4a16 checkpoint, judged beside its original."""
    values: dict[str, Any] = {
        "name": "tiny-w4a16",
        "base": "org/tiny@2",
        "base_digest": OTHER_SHA,
        "base_source": {"type": "folder"},
        "job_id": JOB,
        "scheme": Scheme.W4A16,
        "method": Method.GPTQ,
        "group_size": 128,
        "ignore": ["lm_head"],
        "overrides": [Override(layers=["re:.*down_proj"], scheme="w8a16")],
        "smoothing_strength": None,
        "result": QuantizationResult(
            layers=21,
            kept=["lm_head"],
            facts=facts(),
            quantize_s=10.0,
            seconds=20.0,
            peak_memory_bytes=2**30,
            bytes=1_500_000,
        ),
        "data": TEXTS,
        "gate": Gate(max_ppl_increase=0.05),
        "verdict": Verdict(passed=True),
        "figures": figures(),
    }
    return Quantized(**(values | fields))


def png() -> bytes:
    """A picture of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0\x80"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
