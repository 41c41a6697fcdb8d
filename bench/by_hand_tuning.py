"""What somebody writes who calls TRL without a platform: `python bench/by_hand_tuning.py order.json`.

Nothing of ours is imported. The order: `model`, `data` (JSON lines with `text`) and `out`, `steps`, `batch`,
`max_length`, `learning_rate`, `rank`, `save_steps`, `threads`, `nice`. It is TRL's own way: the dataset is tokenized by
it, every step is logged, checkpoints are written, and the adapter at the end. The last line of stdout is JSON: seconds
by phase, those of the steps alone, and the loss of each.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Import, load, train, save."""
    begun = since = time.perf_counter()
    hand = Hand(json.loads(Path(sys.argv[1]).read_text()))
    seconds = {}
    for step in (hand.imports, hand.load, hand.prepare, hand.train, hand.save):
        print(step.__name__, file=sys.stderr, flush=True)
        step()
        now = time.perf_counter()
        seconds[step.__name__], since = now - since, now
    losses = [line["loss"] for line in hand.trainer.state.log_history if "loss" in line]
    told = {"seconds": seconds, "whole_s": since - begun, "tokens": hand.trainer.state.num_input_tokens_seen}
    print(json.dumps(told | {"losses": losses}), flush=True)


class Hand:
    """One run. Libraries are imported where they are needed: how long that takes is one of the figures."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.model: Any = None
        self.tokenizer: Any = None
        self.trainer: Any = None
        os.nice(order["nice"])
        os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

    def imports(self) -> None:
        import datasets  # noqa: F401, PLC0415
        import peft  # noqa: F401, PLC0415
        import torch  # noqa: PLC0415
        from trl import SFTTrainer  # noqa: F401, PLC0415

        torch.set_num_threads(self.order["threads"])

    def load(self) -> None:
        import torch  # noqa: PLC0415
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

        self.model = AutoModelForCausalLM.from_pretrained(self.order["model"], dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(self.order["model"])

    def prepare(self) -> None:
        from datasets import Dataset  # noqa: PLC0415
        from peft import LoraConfig  # noqa: PLC0415
        from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

        order = self.order
        lines = [json.loads(line) for line in Path(order["data"]).read_text().splitlines()]
        arguments = SFTConfig(
            output_dir=order["out"],
            per_device_train_batch_size=order["batch"],
            max_steps=order["steps"],
            max_length=order["max_length"],
            learning_rate=order["learning_rate"],
            lr_scheduler_type="cosine",
            logging_steps=1,
            save_steps=order["save_steps"],
            save_total_limit=3,
            include_num_input_tokens_seen="non_padding",
            report_to="none",
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            disable_tqdm=True,
            seed=0,
        )
        self.trainer = SFTTrainer(
            model=self.model,
            args=arguments,
            train_dataset=Dataset.from_list(lines),
            processing_class=self.tokenizer,
            peft_config=LoraConfig(r=order["rank"], lora_alpha=2 * order["rank"], target_modules="all-linear"),
        )

    def train(self) -> None:
        self.trainer.train()

    def save(self) -> None:
        self.trainer.save_model(str(Path(self.order["out"]) / "adapter"))


if __name__ == "__main__":
    main()
