"""Seconds and memory of quantizing Llama-3-8B's shape on GPUs, beside llm-compressor called by hand; no stores needed.

    python -m bench.gpu_compression --variants fp8 fp8-hand gptq gptq-hand gptq-2 --out FOLDER [--scratch FOLDER]

A variant is a kind (`fp8`: fp8-dynamic; `gptq`: w4a16 with GPTQ; `rtn`: w4a16 to nearest; `int8`: SmoothQuant + GPTQ),
`-hand` for the plain script (`bench/by_hand.py`) instead of the platform's forge, and a number of GPUs for torchrun.
Both get the same checkpoint (random weights) and the same samples (random tokens), each in a process of its own. A
variant that fails is written down as such, and so is one for which `--minutes` leave no time. `--shape tiny` shows on
any machine that it runs; its figures mean nothing.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.checkpoints import MODEL, SAMPLES
from bench.gpu_table import Found, line, write
from bench.watching import SMI, Watched, watch
from shared.contracts.compression import SCHEMES, Method, Scheme
from shared.contracts.forge import ForgeSpec
from shared.contracts.forge_orders import SAMPLES_FILE, QuantizeOrder, Subject

KINDS: dict[str, tuple[Scheme, Method]] = {
    "fp8": (Scheme.FP8_DYNAMIC, Method.RTN),
    "gptq": (Scheme.W4A16, Method.GPTQ),
    "rtn": (Scheme.W4A16, Method.RTN),
    "int8": (Scheme.INT8, Method.GPTQ),
}
NAME = re.compile(rf"({'|'.join(KINDS)})(-hand)?(?:-([2-8]))?")
ROOT = Path(__file__).parents[1]
PHASE = re.compile(r"([\w ]+): ([\d.]+) s")
DEVICE = "cuda" if shutil.which(SMI) else "cpu"
FORGE_TOKENS = 8192  # of a batch of a forge on a GPU (workers/forge/quantization/compressing.py)
LEAST_S = 20.0  # a variant is not begun with less


@dataclass(frozen=True)
class Variant:
    """One way of doing one piece of work."""

    name: str
    scheme: Scheme
    method: Method
    by_hand: bool
    devices: int

    @classmethod
    def of(cls, name: str) -> "Variant":
        """Raises ValueError."""
        found = NAME.fullmatch(name)
        if found is None:
            msg = f"{name}: no variant"
            raise ValueError(msg)
        scheme, method = KINDS[found[1]]
        return cls(name, scheme, method, bool(found[2]), int(found[3] or 1))

    @property
    def calibrated(self) -> bool:
        return self.method is Method.GPTQ


def main() -> None:
    """Make the checkpoint, run every variant, write the table after each."""
    asked = _asked()
    deadline = time.monotonic() + 60 * asked.minutes
    scratch = asked.scratch or Path(tempfile.mkdtemp(prefix="gpu-compression-"))
    asked.out.mkdir(parents=True, exist_ok=True)
    rows: list[Found] = []
    try:
        _prepare(scratch, asked)
        for variant in asked.variants:
            left_s = deadline - time.monotonic()
            row = Found(variant.name, problem="not run: no time was left")
            if left_s > LEAST_S:
                row = _survived(variant, scratch, asked, timeout_s=left_s)
            rows.append(row)
            print(line(row), flush=True)
            write(rows, asked.out, name=asked.name, about=_about(asked))
    finally:
        if asked.scratch is None:
            shutil.rmtree(scratch, ignore_errors=True)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_compression", description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", type=Variant.of, default=[Variant.of("fp8"), Variant.of("gptq")])
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--name", default="gpu-compression", help="of the two files written")
    parser.add_argument(
        "--scratch", type=Path, help="where the checkpoint is kept for the next call; else it is deleted"
    )
    parser.add_argument("--keep", action="store_true", help="leave what variants made in --scratch")
    parser.add_argument("--shape", choices=("8b", "tiny"), default="8b")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--minutes", type=float, default=9.0, help="of all variants; what is left is not begun")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--hand-batch", type=int, help="samples that go through at once by hand; else what a forge takes"
    )
    parser.add_argument("--hand-device", default=DEVICE, help="where weights lie by hand, and on one GPU alone")
    parser.add_argument("--hand-offload", default=DEVICE, help="where what flows between layers waits by hand")
    asked = parser.parse_args()
    asked.hand_batch = asked.hand_batch or max(1, FORGE_TOKENS // asked.sequence_length)
    return asked


def _prepare(scratch: Path, asked: argparse.Namespace) -> None:
    amount = ["--samples", str(asked.samples), "--sequence-length", str(asked.sequence_length)]
    command = [sys.executable, "-m", "bench.checkpoints", str(scratch), "--shape", asked.shape, *amount]
    subprocess.run(command, check=True, env=_environment(), cwd=ROOT)


def _survived(variant: Variant, scratch: Path, asked: argparse.Namespace, *, timeout_s: float) -> Found:
    print(f"begun: {variant.name}", flush=True)
    try:
        return _run(variant, scratch, asked, timeout_s=timeout_s)
    except (OSError, ValueError, KeyError) as error:
        return Found(variant.name, problem=f"{type(error).__name__}: {error}")


def _run(variant: Variant, scratch: Path, asked: argparse.Namespace, *, timeout_s: float) -> Found:
    folder = scratch / variant.name
    shutil.rmtree(folder, ignore_errors=True)
    out = folder / "out"
    out.mkdir(parents=True)
    module = [str(ROOT / "bench" / "by_hand.py")] if variant.by_hand else ["-m", "workers.forge.quantize"]
    order = _hand(variant, scratch, out, asked) if variant.by_hand else _spec(variant, scratch, out, asked)
    (folder / "order.json").write_text(order)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(variant.devices)]
    command = [sys.executable, *(torchrun if variant.devices > 1 else []), *module, str(folder / "order.json")]
    log = asked.out / f"{asked.name}-{variant.name}.log"
    try:
        found = watch(command, cwd=folder, env=_environment(variant.devices), timeout_s=timeout_s, log=log)
        return _by_hand(variant, found, out) if variant.by_hand else _by_forge(variant, found, out)
    finally:
        if not asked.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _hand(variant: Variant, scratch: Path, out: Path, asked: argparse.Namespace) -> str:
    order = {
        "model": str(scratch / MODEL),
        "out": str(out / "checkpoint"),
        "scheme": variant.scheme,
        "method": variant.method,
        "samples": str(scratch / SAMPLES / SAMPLES_FILE) if variant.calibrated else None,
        "batch": asked.hand_batch,
        "threads": asked.threads,
        "nice": 0,
        "device": asked.hand_device,
        "offload": asked.hand_offload,
    }
    return json.dumps(order)


def _spec(variant: Variant, scratch: Path, out: Path, asked: argparse.Namespace) -> str:
    order = QuantizeOrder(
        model=Subject(folder=scratch / MODEL, name="llama-3-8b"),
        scheme=variant.scheme,
        method=variant.method,
        group_size=SCHEMES[variant.scheme].group_size,
        ignore=["lm_head"],
        calibration=scratch / SAMPLES if variant.calibrated else None,
    )
    spec = ForgeSpec(
        spec=order.model_dump(mode="json"),
        inputs=scratch,
        out=out,
        fingerprint="bench",
        threads=asked.threads,
        parent_pid=os.getpid(),
    )
    return spec.model_dump_json()


def _environment(devices: int = 1) -> dict[str, str]:
    """Ours, with this checkout to import from; a variant sees the devices that it uses."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(devices)))}


def _by_hand(variant: Variant, found: Watched, out: Path) -> Found:
    row = _row(variant, found, out)
    if not row.problem:
        row.phases = found.last["seconds"]
        row.quantize_s = row.phases["oneshot"] + row.phases["save"]
        row.torch_bytes = found.last["torch_bytes"]
    return row


def _by_forge(variant: Variant, found: Watched, out: Path) -> Found:
    row = _row(variant, found, out)
    row.phases = phases(found)
    errors = [told["error"] for _, told in found.lines if told.get("type") == "error"]
    if errors:
        row.problem = "{code}: {title} {detail}".format(**errors[0])
    if not row.problem:
        written = out / "result.json"
        result = json.loads(written.read_text()) if written.exists() else found.last["result"]
        row.quantize_s, row.torch_bytes = result["quantize_s"], result["peak_memory_bytes"]
    return row


def _about(asked: argparse.Namespace) -> dict[str, Any]:
    hand = {"batch": asked.hand_batch, "device": asked.hand_device, "offload": asked.hand_offload}
    return {"shape": asked.shape, "samples": asked.samples, "sequence_length": asked.sequence_length, "hand": hand}


def phases(found: Watched) -> dict[str, float]:
    """Seconds of a forge's phases as its log has them, and when its first and last layer were done since its start."""
    said: dict[str, float] = {}
    for seconds, told in found.lines:
        if told.get("type") == "log" and (phase := PHASE.fullmatch(told["message"])):
            said[phase[1]] = float(phase[2])
        elif told.get("type") == "progress":
            said.setdefault(f"first of {told['unit']} after", seconds)
            said[f"last of {told['unit']} after"] = seconds
        elif told.get("type") == "done":
            said["done after"] = seconds
    return said


def _row(variant: Variant, found: Watched, out: Path) -> Found:
    problem = "" if found.status == 0 else "its time was over" if found.status is None else f"ended with {found.status}"
    size = sum(path.stat().st_size for path in (out / "checkpoint").glob("**/*") if path.is_file())
    return Found(
        variant.name,
        wall_s=found.seconds,
        gpu_bytes=found.gpu_bytes,
        host_bytes=found.host_bytes,
        checkpoint_bytes=size,
        problem=problem,
    )


if __name__ == "__main__":
    main()
