"""One GPU class: tokens a second through the whole platform, beside the same engine's own socket, in one run.

    MODELYARD_GPU_CLASS=h200 MODELYARD_VLLM_PYTHON=… MODELYARD_VLLM_ARGS='["--load-format","dummy"]'
        python -m bench.gpu --variants bf16 fp8 --out FOLDER

The model is Llama-3-8B's shape with random weights, which vLLM makes up itself (`--load-format dummy`); prompts are
random token ids, new ones for every run, so that no prefix is ever cached. Both sides stream; the variant `batch` sends
the lines of a batch, and beside it the same number straight to the engine, whole answers on connections that stay open.
`--variants batch --tiny --lines 8` shows on any machine that it runs.
"""

import argparse
import asyncio
import json
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench.batches import side_by_side, straight, through
from bench.calls import engines_of
from bench.report import Report, Row
from bench.shapes import SHAPE, TINY, VOCABULARY
from bench.streams import Run, Target, run, stream, token_bodies
from bench.yard import Yard, running
from infra.models import __path__ as packaged
from services.catalog import service as catalog
from shared.storage import Store

IN, OUT, CONTEXT = 512, 256, 2048
WARM_LINES = 64
PATH = "/v1/completions"
WARM = ((64, 64), (64, 64), (4, 4))


@dataclass(frozen=True)
class Variant:
    """One way of serving the shape, and how many requests at once are measured."""

    name: str
    serving: dict[str, Any]
    at_once: tuple[int, ...]
    rounds: int = 2
    whole: tuple[int, ...] = ()  #: requests at once that are not streamed
    job: int = 0  #: lines of one job
    batch: int = 0  #: lines of one batch; as many in flight as the engine admits


VARIANTS = {
    each.name: each
    for each in (
        Variant("bf16", {"max_in_flight": 1024}, (512, 64, 1)),
        Variant("fp8", {"max_in_flight": 1024, "quantization": "fp8"}, (512,), whole=(512,), job=1000),
        Variant("tp2", {"max_in_flight": 1024, "tensor_parallel": 2}, (512, 64, 1), whole=(512,)),
        Variant("replicas", {"max_in_flight": 1024}, (512,), whole=(512,), job=2048),
        Variant("batch", {"max_in_flight": 512}, (), batch=4000),
        Variant("transformers", {"engine": "transformers", "max_in_flight": 64}, (32,), rounds=1),
    )
}


def main() -> None:
    """Measure the variants asked for, in order, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["bf16"])
    parser.add_argument("--at-once", nargs="+", type=int, help="instead of each variant's own numbers")
    parser.add_argument("--lines", type=int, help="of a batch, instead of the variant's own number")
    parser.add_argument("--processes", type=int, default=4, help="processes of the load client")
    parser.add_argument("--extra-workers", type=int, default=0, help="further workers, on devices 1, 2, …")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to see that it runs; means nothing")
    asked = parser.parse_args()
    report = Report()
    with running() as yard, tempfile.TemporaryDirectory() as scratch:
        others = [_worker(yard, device) for device in range(1, asked.extra_workers + 1)]
        try:
            for name in asked.variants:
                _measure(yard, report, VARIANTS[name], scratch=Path(scratch), asked=asked)
        finally:
            shutil.copytree(yard.data / "logs", asked.out / "logs", dirs_exist_ok=True)
            report.write(asked.out, name=f"gpu-{'-'.join(asked.variants)}", title="One GPU class, measured")
            for process in others:
                process.terminate()
                process.wait()


def _measure(yard: Yard, report: Report, variant: Variant, *, scratch: Path, asked: argparse.Namespace) -> None:
    name = f"llama-3-8b-{variant.name}"
    _register(yard, name, scratch, serving=variant.serving | {"context_length": CONTEXT}, tiny=asked.tiny)
    gateway = Target(model=name, token=yard.key, host=yard.address[0], port=yard.address[1])
    begun = time.perf_counter()
    asyncio.run(stream(gateway, _bodies(1, seed=0)[0]))
    report.add(
        Row(variant.name, "first call to its last token, engine start included", time.perf_counter() - begun, "s")
    )
    wanted = 1 + asked.extra_workers
    if wanted > 1:  # a job of several parts, so that every worker loads the model
        _job(yard, name, lines=1001 * wanted, seed=7, max_tokens=2)
    engines = engines_of(yard, model=name, count=wanted, timeout_s=600)
    for number, (count, at_once) in enumerate(WARM[-1:] if asked.tiny else WARM):
        for place, target in enumerate((gateway, *engines)):
            run(target, _bodies(count, seed=100 * number + place + 1), at_once=at_once)
    for streamed, numbers in ((True, asked.at_once or variant.at_once), (False, variant.whole)):
        for at_once in numbers:
            _side_by_side(report, Sides(variant, engines, gateway, streamed, asked.processes), at_once=at_once)
    if variant.job:
        tokens, seconds = _job(yard, name, lines=variant.job, seed=8, max_tokens=OUT)
        report.add(
            Row(variant.name, f"one job of {variant.job} lines, POST to succeeded", tokens / seconds, "tokens/s")
        )
    if variant.batch:
        _batches(yard, report, variant, name, engines=engines, asked=asked)


def _batches(
    yard: Yard, report: Report, variant: Variant, model: str, *, engines: list[Target], asked: argparse.Namespace
) -> None:
    """Lines without repeats: platform, straight, straight, platform."""
    at_once, lines = variant.serving["max_in_flight"], asked.lines or variant.batch
    through(yard, _uneven(min(WARM_LINES, lines), seed=1), model=model, path=PATH)
    sides = (
        lambda bodies: through(yard, bodies, model=model, path=PATH),
        lambda bodies: straight(engines, bodies, at_once=at_once, path=PATH, processes=asked.processes),
    )
    rounds = [[_uneven(lines, seed=2 * number + side) for side in range(2)] for number in range(1, variant.rounds + 1)]
    what = f"{lines:,} lines, {at_once} in flight"
    side_by_side(report, variant.name, sides, rounds, what=what, aim=0.97)


@dataclass(frozen=True)
class Sides:
    """The two that are compared: the engines' own sockets, and the gateway in front of them."""

    variant: Variant
    engines: list[Target]
    gateway: Target
    streamed: bool
    processes: int


def _side_by_side(report: Report, sides: Sides, *, at_once: int) -> None:
    ratios, variant = [], sides.variant
    processes = max(len(sides.engines), min(sides.processes, at_once))
    how = f"N={at_once}, " + ("streamed" if sides.streamed else "whole answers")
    for number in range(variant.rounds):
        seed = 1000 * at_once + 10 * number + 5 * sides.streamed
        found = [
            run(target, _bodies(at_once, seed=seed + n), at_once=at_once, processes=processes, streamed=sides.streamed)
            for n, target in enumerate((sides.engines, [sides.gateway]))
        ]
        _assert_counts(*found)
        _row(report, variant, f"{how}, engine's socket", found[0])
        _row(report, variant, f"{how}, through the platform", found[1])
        ratios.append(found[1].tokens_per_s / found[0].tokens_per_s)
    ratio = statistics.median(ratios)
    report.add(Row(variant.name, f"{how}: ratio, median of rounds", ratio, "×", "≥ 0.95", ratio >= 0.95))


def _job(yard: Yard, model: str, *, lines: int, seed: int, max_tokens: int) -> tuple[int, float]:
    """Tokens that one job generated, and its seconds. Its prompts are text of about `IN` tokens."""
    chosen = random.Random(seed)
    words = [f"def f_{number}(argument): return " for number in range(100)]
    prompts = ["".join(chosen.choices(words, k=IN // 12)) for _ in range(lines)]
    spec = {"model": model, "prompts": prompts, "max_tokens": max_tokens, "ignore_eos": True}
    begun = time.perf_counter()
    job = yard.finished(yard.submit("inference", spec), timeout_s=600)
    assert job["state"] == "succeeded", job["error"]
    return int(job["usage"]["completion_tokens"]), time.perf_counter() - begun


def _assert_counts(*runs: Run) -> None:
    for each in runs:
        assert {answer.tokens for answer in each.answers} == {OUT}, "an answer has another length"
        assert {answer.prompt_tokens for answer in each.answers} == {IN}, "a prompt has another length"


def _row(report: Report, variant: Variant, what: str, found: Run) -> None:
    note = f"TTFT p50 {found.ttft_ms():.0f} p99 {found.ttft_ms(0.99):.0f} ms, ITL p50 {found.itl_ms():.2f} ms"
    report.add(Row(variant.name, what, found.tokens_per_s, "tokens/s", note=note))


def _bodies(count: int, *, seed: int) -> list[dict[str, Any]]:
    return token_bodies(count, tokens_in=IN, tokens_out=OUT, vocabulary=4096, seed=seed)


def _uneven(count: int, *, seed: int) -> list[dict[str, Any]]:
    """`_bodies` of `OUT // 2` to `OUT` tokens; the lengths are the same for every seed."""
    lengths = random.Random(count)
    return [body | {"max_tokens": lengths.randint(OUT // 2, OUT)} for body in _bodies(count, seed=seed)]


def _register(yard: Yard, name: str, scratch: Path, *, serving: dict[str, Any], tiny: bool) -> None:
    """The shape's configuration, a tokenizer of the right size, and one tensor: the engine makes up the rest."""
    folder = scratch / name
    shutil.copytree(Path(packaged[0]) / "yard-tiny", folder)
    shape = SHAPE | (TINY if tiny else {})
    (folder / "config.json").write_text(json.dumps(shape))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    taken = len(words) + len([t for t in tokenizer["added_tokens"] if t["content"] not in words])
    words.update({f"<{number}>": number for number in range(taken, VOCABULARY)})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    width = shape["hidden_size"]
    norm = {"dtype": "BF16", "shape": [width], "data_offsets": [0, 2 * width]}
    header = json.dumps({"model.norm.weight": norm}).encode()
    header += b" " * (-len(header) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(2 * width))
    with yard.database.transaction() as session:
        tenant = session.execute(text("SELECT id FROM tenants ORDER BY created_at LIMIT 1")).scalar_one()
    catalog.register_folder(yard.database, Store.of(yard.settings), tenant, name=name, folder=folder)
    answer = yard.client.patch(f"/v1/models/{name}", json={"serving": serving})
    answer.raise_for_status()


def _worker(yard: Yard, device: int) -> subprocess.Popen[bytes]:
    """One more worker of the yard's class, on another device."""
    lines = (yard.data / "secrets" / "modelyard.env").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("MODELYARD_WORKER_DEVICES", "MODELYARD_ENGINE_SPARES"))]
    own = yard.data / "secrets" / f"worker-{device}.env"
    own.write_text("\n".join([*kept, f"MODELYARD_WORKER_DEVICES='[{device}]'", ""]))
    command = f"MODELYARD_ENV_FILE={own} exec {sys.executable} -m services.cli.main worker"
    return subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
