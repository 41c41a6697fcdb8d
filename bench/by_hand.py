"""What somebody writes who calls llm-compressor without a platform: `python bench/by_hand.py order.json`.

Nothing of ours is imported. The order: `model` and `out` (folders), `scheme` (fp8-dynamic, w4a16, int8), `method` (rtn
or gptq), `samples` (safetensors with `input_ids` and `attention_mask`, or null), `batch`, `threads`, `nice`, `device`
(where the weights lie), `offload` (where what flows between layers waits). Under torchrun every rank takes a part of
the samples. The last line of stdout is JSON: seconds by phase, and the most memory that torch held on its device.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SCHEMES = {"fp8-dynamic": "FP8_DYNAMIC", "w4a16": "W4A16", "int8": "W8A8"}
RANKS = "TORCHELASTIC_RUN_ID"  # set by torchrun


def main() -> None:
    """Import, load, quantize, save."""
    begun = since = time.perf_counter()
    hand = Hand(json.loads(Path(sys.argv[1]).read_text()))
    seconds = {}
    for step in (hand.imports, hand.load, hand.oneshot, hand.save):
        print(step.__name__, file=sys.stderr, flush=True)
        step()
        now = time.perf_counter()
        seconds[step.__name__], since = now - since, now
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"seconds": seconds, "whole_s": since - begun, "torch_bytes": hand.held()}), flush=True)


class Hand:
    """One piece of work. Libraries are imported where they are needed: how long that takes is one of the figures."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.model: Any = None
        self.tokenizer: Any = None
        os.nice(order["nice"])
        os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

    def imports(self) -> None:
        import llmcompressor  # noqa: F401, PLC0415
        import torch  # noqa: PLC0415
        from compressed_tensors.offload import init_dist  # noqa: PLC0415

        torch.set_num_threads(self.order["threads"])
        if RANKS in os.environ:
            init_dist()

    def load(self) -> None:
        from compressed_tensors.offload import load_offloaded_model  # noqa: PLC0415
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

        folder = self.order["model"]
        if RANKS in os.environ:  # examples/quantization_w4a16/llama3_ddp_example.py
            with load_offloaded_model():
                self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map="auto_offload")
        else:
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(self.order["device"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def oneshot(self) -> None:
        import llmcompressor  # noqa: PLC0415
        from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: PLC0415
        from llmcompressor.modifiers.quantization import QuantizationModifier  # noqa: PLC0415
        from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier  # noqa: PLC0415

        scheme = self.order["scheme"]
        kind = GPTQModifier if self.order["method"] == "gptq" else QuantizationModifier
        recipe: list[Any] = [SmoothQuantModifier(smoothing_strength=0.5)] if scheme == "int8" else []
        recipe.append(kind(targets="Linear", scheme=SCHEMES[scheme], ignore=["lm_head"]))
        calibration = self._calibration() if self.order["samples"] else {}
        llmcompressor.oneshot(model=self.model, tokenizer=self.tokenizer, recipe=recipe, **calibration)

    def _calibration(self) -> dict[str, Any]:
        from datasets import Dataset  # noqa: PLC0415
        from datasets.table import InMemoryTable  # noqa: PLC0415
        from safetensors.numpy import load_file  # noqa: PLC0415

        samples = load_file(self.order["samples"])
        rank = os.environ.get("LOCAL_RANK", "0")
        columns = {name: samples[name].tolist() for name in ("input_ids", "attention_mask")}
        return {
            # a fingerprint of its own: dill cannot pickle pyarrow's types on Python 3.12
            "dataset": Dataset(InMemoryTable.from_pydict(columns), fingerprint="by-hand"),
            "num_calibration_samples": len(columns["input_ids"]),
            "max_seq_length": len(columns["input_ids"][0]),
            "shuffle_calibration_samples": False,
            "batch_size": self.order["batch"],
            "sequential_offload_device": f"cuda:{rank}" if self.order["offload"] == "cuda" else self.order["offload"],
        }

    def save(self) -> None:
        self.model.save_pretrained(self.order["out"], save_compressed=True)
        if os.environ.get("RANK", "0") == "0":
            self.tokenizer.save_pretrained(self.order["out"])

    @staticmethod
    def held() -> int | None:
        import torch  # noqa: PLC0415

        return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None


if __name__ == "__main__":
    main()
