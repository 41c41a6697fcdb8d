"""Checkpoints of one shape beside each other on vLLM: `python -m bench.gpu_served --out DIR name=FOLDER …`.

Needs a GPU and vLLM, no stores. Each checkpoint gets an engine and a process of its own, one after the other;
512 random prompt tokens, 256 output tokens, end of text ignored: the load of `bench/results/h200.md`.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

PROMPT, OUTPUT = 512, 256
NUMBERS: Final = (512, 64)
ALONE: Final = 5  # runs of one request
UTILIZATION: Final = 0.85
LIMIT_S: Final = 240.0  # for one checkpoint


def measure(folder: str) -> dict[str, Any]:
    """Figures of one checkpoint: seconds, tokens a second, bytes of weights on the device. Runs in its own process."""
    from vllm import LLM, SamplingParams, TokensPrompt  # noqa: PLC0415 - of vLLM's environment

    started = time.perf_counter()
    engine = LLM(
        model=folder,
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=2048,
        gpu_memory_utilization=UTILIZATION,
        seed=0,
    )
    found: dict[str, Any] = {"start_s": round(time.perf_counter() - started, 1)}
    dice = random.Random(0)
    vocabulary = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]

    def run(number: int, tokens: int) -> float:
        prompts = [
            TokensPrompt(prompt_token_ids=[dice.randrange(2, vocabulary) for _ in range(PROMPT)]) for _ in range(number)
        ]
        sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        began = time.perf_counter()
        answers = engine.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        assert all(len(answer.outputs[0].token_ids) == tokens for answer in answers)
        return seconds

    for _ in range(2):
        run(64, OUTPUT)
    for number in NUMBERS:
        seconds = min(run(number, OUTPUT) for _ in range(2))
        found[f"tokens_per_s_{number}"] = round(number * OUTPUT / seconds)
    first = statistics.median(run(1, 1) for _ in range(ALONE))
    whole = statistics.median(run(1, OUTPUT) for _ in range(ALONE))
    found["ttft_ms"] = round(first * 1000, 1)
    found["itl_ms"] = round((whole - first) / (OUTPUT - 1) * 1000, 2)
    found["tokens_per_s_1"] = round(OUTPUT / whole, 1)
    return found


def main() -> None:
    """Measure every checkpoint that is named, and write `served.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of served.json")
    parser.add_argument("--one", help="measure this folder in this process and print its figures")
    parser.add_argument("checkpoints", nargs="*", metavar="name=FOLDER")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one)))
        return
    found: dict[str, Any] = {}
    for name, _, folder in (pair.partition("=") for pair in given.checkpoints):
        found[name] = _apart(given.out, folder)
        found[name]["weight_bytes"] = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        print(name, json.dumps(found[name]), flush=True)
        (given.out / "served.json").write_text(json.dumps(found, indent=1) + "\n")


def _apart(out: Path, folder: str) -> dict[str, Any]:
    """`measure` in a process of its own; what it logged goes to a file."""
    log = out / "served.log"
    command = [sys.executable, "-m", "bench.gpu_served", "--out", str(out), "--one", folder]
    try:
        with log.open("a") as told:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=told, timeout=LIMIT_S, check=True, text=True)
    except (subprocess.SubprocessError, OSError) as error:
        return {"failed": str(error)[:300], "log": log.read_text()[-1500:]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
