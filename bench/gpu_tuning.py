"""Tokens a second, memory and MFU of tuning Llama-3-8B's shape on GPUs, beside plain PEFT by hand; no stores needed.

    python -m bench.gpu_tuning --variants hand forge resumed packed --out FOLDER [--scratch FOLDER]

`hand` is a plain loop (`bench/by_hand_steps.py`) in three settings. The others are the platform's forge, which chooses
its setting by itself: `forge` has samples as long as rows, `packed` shorter ones, several to a row; `-2` is two GPUs
under torchrun. After `--steps` steps a forge is sent SIGTERM: it writes a checkpoint, from which `resumed` goes on.
`full` trains all weights. Each is a process of its own, on the same checkpoint of random weights. `--shape tiny` shows
on any machine that it runs; its figures mean nothing.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.checkpoints import MODEL
from bench.shapes import SHAPE, TINY
from bench.tuning_data import LONG, SHORT, write_lines
from bench.tuning_table import Found, line, write
from bench.watching import Watched, watch
from shared.contracts.forge import ForgeSpec, Resume
from shared.contracts.forge_orders import Data, Subject
from shared.contracts.tuning import Checkpoints, Lora, Method, Training
from shared.contracts.tuning_orders import LOSS, MEMORY, MFU, TOKENS_S, TuneOrder

KINDS = ("hand", "forge", "packed", "resumed", "full")
NAME = re.compile(rf"({'|'.join(KINDS)})(?:-([2-8]))?")
ROOT = Path(__file__).parents[1]
HAND = ("checkpointing", "none", "compiled")
HAND_BATCH, HAND_STEPS, RANK = 4, 6, 16
WARM_UP = 3  # steps of a forge that count for no speed
RUN_STEPS = 100  # that a forge is told of: it stops before
PEAK_FLOPS = 989e12  # of an H200 and an H100, dense bf16
LEAST_S = 30.0  # a variant is not begun with less
AIMS = {"forge": 0.95, "resumed": 0.95}
PACKED_AIM = 0.9  # of `forge`


@dataclass
class Bench:
    """What is asked for, and what has been found so far."""

    asked: argparse.Namespace
    scratch: Path
    rows: list[Found] = field(default_factory=list)
    checkpoints: dict[int, tuple[int, Path]] = field(default_factory=dict)  #: by GPUs: (step, folder)

    def best(self, kind: str) -> float | None:
        """Tokens a second of the best row of a kind."""
        return max((row.tokens_s for row in self.rows if row.variant.startswith(kind) and row.tokens_s), default=None)


def main() -> None:
    """Make the checkpoint and the lines, run every variant, write the table after each."""
    asked = _asked()
    deadline = time.monotonic() + 60 * asked.minutes
    bench = Bench(asked, asked.scratch or Path(tempfile.mkdtemp(prefix="gpu-tuning-")))
    asked.out.mkdir(parents=True, exist_ok=True)
    try:
        _prepare(bench)
        for variant in asked.variants:
            left_s = deadline - time.monotonic()
            rows = [Found(variant, note="not run: no time was left")]
            if left_s > LEAST_S:
                rows = _survived(bench, variant, timeout_s=left_s)
            bench.rows += rows
            print(*map(line, rows), sep="\n", flush=True)
            about = {"shape": asked.shape, "length": asked.length, "steps": asked.steps}
            write(bench.rows, asked.out, name=asked.name, about=about)
    finally:
        if asked.scratch is None:
            shutil.rmtree(bench.scratch, ignore_errors=True)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_tuning", description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", type=_variant, default=["hand", "forge", "packed"])
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--name", default="gpu-tuning", help="of the two files written")
    parser.add_argument("--scratch", type=Path, help="where the checkpoint is kept for the next call")
    parser.add_argument("--shape", choices=("8b", "tiny"), default="8b")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=12, help="of a forge, before it is told to stop")
    parser.add_argument("--minutes", type=float, default=9.0, help="of all variants; what is left is not begun")
    return parser.parse_args()


def _variant(name: str) -> str:
    if NAME.fullmatch(name) is None:
        msg = f"{name}: no variant"
        raise argparse.ArgumentTypeError(msg)
    return name


def _prepare(bench: Bench) -> None:
    command = [sys.executable, "-m", "bench.checkpoints", str(bench.scratch), "--shape", bench.asked.shape]
    subprocess.run([*command, "--samples", "1"], check=True, env=_environment(1), cwd=ROOT)
    write_lines(bench.scratch)


def _survived(bench: Bench, variant: str, *, timeout_s: float) -> list[Found]:
    print(f"begun: {variant}", flush=True)
    found = NAME.fullmatch(variant)
    assert found is not None
    kind, devices = found[1], int(found[2] or 1)
    try:
        if kind == "hand":
            return _hand(bench, timeout_s=timeout_s)
        return [_forge(bench, variant, kind=kind, devices=devices, timeout_s=timeout_s)]
    except (OSError, ValueError, KeyError) as error:
        return [Found(variant, note=f"{type(error).__name__}: {error}")]


def _hand(bench: Bench, *, timeout_s: float) -> list[Found]:
    asked, folder = bench.asked, bench.scratch / "hand"
    folder.mkdir(exist_ok=True)
    order = {
        "config": _config(asked),
        "batch": HAND_BATCH,
        "length": asked.length,
        "rank": RANK,
        "steps": HAND_STEPS,
        "settings": HAND,
    }
    (folder / "order.json").write_text(json.dumps(order))
    command = [sys.executable, str(ROOT / "bench" / "by_hand_steps.py"), str(folder / "order.json")]
    log = asked.out / f"{asked.name}-hand.log"
    found = watch(command, cwd=folder, env=_environment(1), timeout_s=timeout_s, log=log)
    rows = [
        Found(
            f"hand-{told['setting']}",
            tokens_s=told["tokens_s"],
            mfu=told["tokens_s"] * _flops(asked) / PEAK_FLOPS,
            step_s=told["step_s"],
            torch_bytes=told["torch_bytes"],
            note=f"{HAND_BATCH} × {asked.length}; first step {told['first_s']:.1f} s",
        )
        for _, told in found.lines
    ]
    if found.status != 0:
        rows.append(Found("hand", note=f"ended with {found.status}"))
    return rows


def _forge(bench: Bench, variant: str, *, kind: str, devices: int, timeout_s: float) -> Found:
    asked, folder = bench.asked, bench.scratch / variant
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    resume = None
    if kind == "resumed":
        step, last = bench.checkpoints[devices]
        resume = Resume(step=step, folder=last)
    (folder / "order.json").write_text(_spec(bench, kind, folder, resume=resume).model_dump_json())
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)]
    module = ["-m", "workers.forge.tune", str(folder / "order.json")]
    command = [sys.executable, *(torchrun if devices > 1 else []), *module]
    log = asked.out / f"{asked.name}-{variant}.log"
    stop = _Stop(after=asked.steps)
    found = watch(command, cwd=folder, env=_environment(devices), timeout_s=timeout_s, log=log, hear=stop)
    row = _row(bench, variant, found, devices=devices)
    saved = [told for _, told in found.lines if told.get("type") == "checkpoint"]
    if saved and kind == "forge":
        bench.checkpoints[devices] = saved[-1]["step"], folder / "out" / saved[-1]["folder"]
    return row


class _Stop:
    """Sends SIGTERM to a forge and its ranks once it has told of so many steps."""

    def __init__(self, *, after: int) -> None:
        self._left = after

    def __call__(self, pid: int, told: Mapping[str, Any]) -> None:
        if told.get("type") != "metric" or LOSS not in told["values"]:
            return
        self._left -= 1
        if self._left == 0:
            os.killpg(pid, signal.SIGTERM)


def _spec(bench: Bench, kind: str, folder: Path, *, resume: Resume | None) -> ForgeSpec:
    asked, full = bench.asked, kind == "full"
    order = TuneOrder(
        model=Subject(folder=bench.scratch / MODEL, name="llama-3-8b"),
        name="bench",
        method=Method.FULL if full else Method.LORA,
        lora=None if full else Lora(rank=RANK, alpha=2 * RANK),
        training=Training(
            learning_rate=2e-5 if full else 2e-4,
            steps=RUN_STEPS,
            max_length=asked.length,
            too_long="truncate",
            packing=kind == "packed",
        ),
        checkpoints=Checkpoints(every_minutes=60.0),
        data=[Data(path=bench.scratch / (SHORT if kind == "packed" else LONG), name="text")],
        context_length=_config(asked)["max_position_embeddings"],
    )
    return ForgeSpec(
        spec=order.model_dump(mode="json"),
        inputs=bench.scratch,
        out=folder / "out",
        fingerprint="bench",
        resume=resume,
        threads=os.cpu_count() or 1,
        parent_pid=os.getpid(),
    )


def _row(bench: Bench, variant: str, found: Watched, *, devices: int) -> Found:
    steps = [
        (at, told["values"]) for at, told in found.lines if told.get("type") == "metric" and LOSS in told["values"]
    ]
    errors = [told["error"] for _, told in found.lines if told.get("type") == "error"]
    row = Found(variant, wall_s=found.seconds, gpu_bytes=found.gpu_bytes)
    if len(steps) <= WARM_UP or errors:
        row.note = "{code}: {title} {detail}".format(**errors[0]) if errors else f"ended with {found.status}"
        return row
    counted = steps[WARM_UP:]
    row.tokens_s = statistics.median(values[TOKENS_S] for _, values in counted)
    row.step_s = statistics.median(after - before for (before, _), (after, _) in pairwise(counted))
    row.mfu = statistics.median(values[MFU] for _, values in counted) if MFU in counted[0][1] else None
    row.torch_bytes = int(max(values[MEMORY] for _, values in steps))
    row.note = _told(found, steps)
    hand, whole = bench.best("hand"), bench.best("forge")
    row.ratio = row.tokens_s / hand if hand else None
    if variant.startswith("packed") and whole and devices == 1:
        row.aim, row.reached = f"≥ {PACKED_AIM} of forge", row.tokens_s >= PACKED_AIM * whole
    elif row.ratio is not None and devices == 1 and (aim := AIMS.get(variant)):
        row.aim, row.reached = f"≥ {aim}", row.ratio >= aim
    return row


def _told(found: Watched, steps: list[tuple[float, dict[str, float]]]) -> str:
    """The setting that a forge has chosen, its start, its checkpoint, its losses."""
    setting = next(told["setting"] for _, told in found.lines if told.get("type") == "setting")
    of = f"{setting['devices']} × {setting['accumulation']} × {setting['micro_batch_size']} × {setting['max_length']}"
    marks = ("compiled", "gradient_checkpointing", "activation_offloading", "packing")
    words = [of, *(mark.replace("_", " ") for mark in marks if setting[mark]), setting["attention"]]
    words.append(f"first step after {steps[0][0]:.1f} s")
    saved = [(at, told) for at, told in found.lines if told.get("type") == "checkpoint"]
    if saved:
        words.append(f"checkpoint of step {saved[-1][1]['step']} {saved[-1][0] - steps[-1][0]:.1f} s after its figures")
    words.append(f"loss {steps[0][1][LOSS]:.3f} … {steps[-1][1][LOSS]:.3f}")
    return ", ".join(words)


def _config(asked: argparse.Namespace) -> dict[str, Any]:
    return SHAPE | (TINY if asked.shape == "tiny" else {})


def _flops(asked: argparse.Namespace) -> float:
    """Operations of LoRA for a token: 4 a weight of a matrix (of the embeddings none), 6 for causal attention."""
    of = _config(asked)
    width, queries = of["hidden_size"], of["num_attention_heads"] * of["head_dim"]
    layer = width * (2 * queries + 2 * of["num_key_value_heads"] * of["head_dim"] + 3 * of["intermediate_size"])
    weights = of["num_hidden_layers"] * layer + of["vocab_size"] * width
    return float(4 * weights + 6 * of["num_hidden_layers"] * queries * asked.length)


def _environment(devices: int) -> dict[str, str]:
    """Ours, with this checkout to import from; a variant sees the devices that it uses."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(devices)))}


if __name__ == "__main__":
    main()
