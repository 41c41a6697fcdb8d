"""Steps of LoRA as somebody writes them with plain PEFT: `python bench/by_hand_steps.py order.json`.

Nothing of ours is imported. The order: `config` (transformers' of a Llama), `batch`, `length`, `rank`, `steps`, and
`settings`: names of `SETTINGS`. Weights are random and made where they lie; forward, backward and AdamW are timed, each
step waited for, the first two left out. A line of JSON for each setting: seconds of its steps, losses, bytes that torch
held at most.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

#: (gradient checkpointing, each decoder layer compiled)
SETTINGS = {"checkpointing": (True, False), "none": (False, False), "compiled": (False, True)}
WARM_UP = 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Each setting in turn, on the same weights."""
    order = json.loads(Path(sys.argv[1]).read_text())
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        base = LlamaForCausalLM(LlamaConfig(**order["config"]))
        ids_BT = torch.randint(8, order["config"]["vocab_size"], (order["batch"], order["length"]))  # noqa: N806
    lora = LoraConfig(r=order["rank"], lora_alpha=2 * order["rank"], target_modules="all-linear")
    model = get_peft_model(base, lora, autocast_adapter_dtype=False)
    for name in order["settings"]:
        checkpointing, compiled = SETTINGS[name]
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        else:
            model.gradient_checkpointing_disable()
        for layer in base.model.layers if compiled else ():
            layer.compile()
        print(json.dumps({"setting": name, **_timed(model, ids_BT, steps=order["steps"])}), flush=True)


def _timed(model: Any, ids_BT: Any, *, steps: int) -> dict[str, Any]:  # noqa: N803 - batch, tokens
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-4, fused=True)
    model.train()
    seconds, losses = [], []
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP + steps):
        begun = time.perf_counter()
        loss = model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))  # waits for the device
        seconds.append(time.perf_counter() - begun)
    held = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None
    step_s = statistics.median(seconds[WARM_UP:])
    told = {"step_s": step_s, "tokens_s": ids_BT.numel() / step_s, "first_s": seconds[0]}
    return told | {"seconds": seconds, "losses": losses, "torch_bytes": held}


if __name__ == "__main__":
    main()
