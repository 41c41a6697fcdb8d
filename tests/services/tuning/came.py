"""What forges of tuning say, made up."""

from typing import Any

from shared.contracts.tuning import DataFacts, Relief, Setting, TuningFigures

SHA = "ab" * 32


def setting(**fields: Any) -> Setting:
    """16 samples a step, 8 at once."""
    values: dict[str, Any] = {
        "devices": 1,
        "batch_size": 16,
        "micro_batch_size": 8,
        "accumulation": 2,
        "max_length": 512,
        "precision": "bf16",
        "gradient_checkpointing": False,
        "compiled": True,
        "activation_offloading": False,
        "attention": "sdpa",
        "packing": False,
    }
    return Setting(**(values | fields))


def facts(**fields: Any) -> DataFacts:
    """A hundred chats, some of them twice."""
    values: dict[str, Any] = {
        "read": 100,
        "kept": 80,
        "validation": 10,
        "left_out": {"duplicate": 9, "too_long": 1, "empty": 0},
        "tokens": 40_000,
        "trained_tokens": 9_000,
        "longest": 510,
        "rows": 80,
        "sources": {"chats.jsonl": 80},
        "kinds": {"chat": 80},
        "sha256": SHA,
    }
    return DataFacts(**(values | fields))


def figures(**fields: Any) -> TuningFigures:
    """A run of three epochs."""
    values: dict[str, Any] = {
        "steps": 15,
        "epochs": 3.0,
        "trainable": 53_760,
        "parameters": 3_168_512,
        "tokens": 120_000,
        "trained_tokens": 27_000,
        "train_loss": 1.25,
        "validation_loss": 1.5,
        "best_step": 10,
        "seconds": 30.0,
        "tokens_per_second": 4000.0,
        "mfu": 0.41,
        "peak_memory_bytes": 3 * 2**30,
        "setting": setting(),
        "relief": Relief(),
        "data": facts(),
    }
    return TuningFigures(**(values | fields))
