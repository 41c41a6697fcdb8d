"""Tiny checkpoints that the tests make, and orders for them."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from shared.contracts.compression import Sampling
from shared.contracts.forge import LogMessage, Message, ProgressMessage
from shared.contracts.forge_orders import Data, QuantizationResult, QuantizeOrder, SamplingOrder, Subject
from workers.forge.quantization.job import quantize
from workers.forge.telling import Tell

YARD_TINY = Path("infra/models/yard-tiny").resolve()
LENGTH = 32
SHAPE: dict[str, Any] = {
    "vocab_size": 4096,  # of yard-tiny's tokenizer
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def saved(folder: Path, config: PreTrainedConfig | None = None) -> Path:
    """A random model in bf16 (a Llama with tied embeddings where nothing else is said), with yard-tiny's tokenizer."""
    torch.manual_seed(0)
    config = config or LlamaConfig(**SHAPE, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    for path in (*YARD_TINY.glob("*token*"), YARD_TINY / "chat_template.jinja"):
        shutil.copy(path, folder)
    return folder


def texts(path: Path) -> Data:
    """Two hundred lines of different words."""
    lines = [" ".join(f"def word_{row}_{column}(value):" for column in range(12)) for row in range(200)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return Data(path=path, name="words")


def order(model: Path, scheme: str, method: str = "rtn", *, data: Data | None = None, **options: Any) -> QuantizeOrder:
    """An order for a scheme; groups are of 32, which divide every layer here."""
    sampling = {"sequence_length": LENGTH, "samples": 10} | options.pop("sampling", {})
    return QuantizeOrder.model_validate(
        {
            "model": Subject(folder=model, name="tiny"),
            "scheme": scheme,
            "method": method,
            "group_size": 32 if scheme == "w4a16" else None,
            "ignore": ["lm_head"],
            "samples": data and SamplingOrder(data=[data], sampling=Sampling.model_validate(sampling)),
            **options,
        }
    )


@dataclass
class Made:
    """What came of an order."""

    result: QuantizationResult
    folder: Path
    told: list[Message] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "config.json").read_bytes())
        return loaded

    @property
    def groups(self) -> dict[str, Any]:
        found: dict[str, Any] = self.config["quantization_config"]["config_groups"]
        return found

    @property
    def logged(self) -> list[str]:
        return [message.message for message in self.told if isinstance(message, LogMessage)]

    @property
    def steps(self) -> list[tuple[int, int | None]]:
        return [(message.done, message.total) for message in self.told if isinstance(message, ProgressMessage)]


def make(given: QuantizeOrder, out: Path) -> Made:
    """Quantize in this process."""
    told: list[Message] = []
    out.mkdir(parents=True, exist_ok=True)
    result = quantize(given, out, tell=Tell(told.append), started=monotonic())
    return Made(result, out / "checkpoint", told)


def plain(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A checkpoint as transformers loads it, without our code."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def error(model: Any, reference: Any, ids: Any) -> float:
    """How far logits are from the reference's, as a share of their size."""
    logits, expected = model(ids).logits.float(), reference(ids).logits.float()
    return float((logits - expected).norm() / expected.norm())
