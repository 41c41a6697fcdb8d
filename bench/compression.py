"""Compression on a CPU: seconds of each kind, what schemes cost, and the platform beside llm-compressor by hand.

By hand is `bench/by_hand.py`: the same checkpoint and samples, a process of its own, as many threads and as nice as a
forge. The two take turns: platform, hand, hand, platform.
"""

import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import RESULTS, Report, Row
from bench.watching import watch
from bench.yard import Yard
from infra.models import __path__ as packaged
from shared.contracts.forge_orders import SAMPLES_FILE
from workers.runtime.forge import NICE

MODEL = "yard-tiny"
SAMPLES, LENGTH, BATCH = 128, 256, 8  # a forge's batch on a CPU is 2048 tokens
JOB_S, HAND_S = 900.0, 600.0
PHASE = re.compile(r"([\w -]+): ([\d.]+) s")
TURNS = ("platform", "hand", "hand", "platform")
#: scheme, method, seconds of a whole job without evaluation
TIMED = (("fp8-dynamic", "rtn", 10.0), ("w4a16", "gptq", 60.0), ("int8", "gptq", None))
#: scheme, method, largest increase of the perplexity
JUDGED = (
    ("fp8-dynamic", "rtn", None),
    ("int8-dynamic", "rtn", None),
    ("int8", "gptq", 0.02),
    ("w8a16", "rtn", None),
    ("w4a16", "rtn", None),
    ("w4a16", "gptq", 0.08),
    ("w4a16", "awq", None),
)


def measure(yard: Yard, report: Report, *, scale: float) -> None:
    """Calibrate, quantize, judge, and do the same by hand."""
    samples = max(8, int(SAMPLES * scale))
    calibration, artifact = _calibrated(yard, report, samples)
    for scheme, method, aim in TIMED:
        _timed(yard, report, _spec(scheme, method, calibration), aim=aim)
    _quality(yard, report, calibration)
    _overhead(yard, report, calibration, artifact)
    _gpus(report)


def _calibrated(yard: Yard, report: Report, samples: int) -> tuple[str, str]:
    """Ids of a calibration and of its artifact."""
    spec = {"model": MODEL, "sampling": {"samples": samples, "sequence_length": LENGTH}}
    job, seconds = _job(yard, "calibration", spec)
    note = _note(_phases(yard, job))
    what = f"{samples} × {LENGTH}, POST to succeeded"
    report.add(Row("calibration", what, seconds, "s", "≤ 20", seconds <= 20, note))
    found = _get(yard, f"/v1/jobs/{job}/result")
    return str(found["calibration"]), str(found["artifact"])


def _timed(yard: Yard, report: Report, spec: Mapping[str, Any], *, aim: float | None) -> None:
    what = f"{spec['scheme']} by {spec['method']}"
    job, seconds = _job(yard, "quantization", {**spec, "evaluation": None})
    phases = _phases(yard, job)
    report.add(Row("forge", f"{what}: its process until all is saved", sum(phases.values()), "s", note=_note(phases)))
    bound = "" if aim is None else f"≤ {aim:g}"
    reached = None if aim is None else seconds <= aim
    report.add(Row("job", f"{what}: POST to succeeded, without evaluation", seconds, "s", bound, reached))


def _quality(yard: Yard, report: Report, calibration: str) -> None:
    for scheme, method, most in JUDGED:
        options = {"tasks": [{"type": "text"}], "speed": False}
        job, seconds = _job(yard, "quantization", {**_spec(scheme, method, calibration), "evaluation": options})
        found = _get(yard, f"/v1/evaluations/{_get(yard, f'/v1/jobs/{job}/result')['evaluation']}")
        (task,) = found["figures"]["tasks"]
        told, before = task["candidate"], task["baseline"]["perplexity"]
        rise = told["ppl_increase"]
        note = (
            f"{before:.3f} → {told['perplexity']:.3f}, KL {told['kl_divergence']:.5f}, agreement"
            f" {told['agreement']:.2%}; whole job with evaluation {seconds:.1f} s"
        )
        bound = "" if most is None else f"≤ {100 * most:g}"
        what = f"{scheme} by {method}: perplexity increase"
        report.add(Row("quality", what, 100 * rise, "%", bound, None if most is None else rise <= most, note))


def _overhead(yard: Yard, report: Report, calibration: str, artifact: str) -> None:
    """w4a16 by GPTQ, the same samples."""
    forges, jobs, hands, processes = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        samples = Path(scratch) / SAMPLES_FILE
        answer = yard.client.get(f"/v1/artifacts/{artifact}/content", params={"path": SAMPLES_FILE})
        samples.write_bytes(answer.raise_for_status().content)
        for number, turn in enumerate(TURNS):
            if turn == "platform":
                name = f"bench-{number}"
                spec = {**_spec("w4a16", "gptq", calibration), "name": name, "evaluation": None}
                job, seconds = _job(yard, "quantization", spec)
                forges.append(sum(_phases(yard, job).values()))
                jobs.append(seconds)
            else:
                whole, seconds = _by_hand(samples, Path(scratch) / f"hand-{number}")
                hands.append(whole)
                processes.append(seconds)
    report.add(Row("overhead", "by hand, imports to saved", statistics.median(hands), "s", note=_list(hands)))
    report.add(Row("overhead", "forge, imports to saved", statistics.median(forges), "s", note=_list(forges)))
    ratio = statistics.median(forges) / statistics.median(hands)
    report.add(Row("overhead", "forge ÷ by hand, medians", ratio, "×", "≤ 1.05", ratio <= 1.05))
    beside = statistics.median(jobs) - statistics.median(forges)
    note = f"claim, spec, store, register, end; jobs {_list(jobs)}, processes by hand {_list(processes)}"
    report.add(Row("overhead", "job beside its forge", beside, "s", note=note))
    ratio = statistics.median(jobs) / statistics.median(processes)
    report.add(Row("overhead", "job ÷ process by hand, medians, upload included", ratio, "×"))


def _by_hand(samples: Path, folder: Path) -> tuple[float, float]:
    """Seconds from the imports to the saved checkpoint, and of the process."""
    folder.mkdir()
    order = {
        "model": str(Path(packaged[0]) / MODEL),
        "out": str(folder / "checkpoint"),
        "scheme": "w4a16",
        "method": "gptq",
        "samples": str(samples),
        "batch": BATCH,
        "threads": max(1, (os.cpu_count() or 1) // 2),
        "nice": NICE,
        "device": "cpu",
        "offload": "cpu",
    }
    (folder / "order.json").write_text(json.dumps(order))
    command = [sys.executable, str(Path(__file__).with_name("by_hand.py")), str(folder / "order.json")]
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": str(order["threads"]), "HOME": str(folder)}
    log = folder / "hand.log"
    found = watch(command, cwd=folder, env=env, timeout_s=HAND_S, log=log)
    assert found.status == 0, log.read_text()[-2000:]
    return float(found.last["whole_s"]), found.seconds


def _gpus(report: Report) -> None:
    """What `bench.gpu_compression` measured on another machine, when its table lies beside ours."""
    for path in sorted(RESULTS.glob("h200-compression*.json")):
        told = json.loads(path.read_text())
        for row in told["rows"]:
            if row["wall_s"] is not None:
                aim = "≤ 60" if row["variant"] == "fp8" and not row["problem"] else ""
                reached = row["wall_s"] <= 60 if aim else None
                most = max(row["gpu_bytes"].values(), default=0) / 2**30
                why = "; ".join(filter(None, [told.get("note"), told["machine"]]))
                note = row["problem"] or f"{why}; {most:.1f} GiB of a GPU; {_note(row['phases'])}"
                report.add(Row("gpu", f"{row['variant']}: process", row["wall_s"], "s", aim, reached, note))


def _spec(scheme: str, method: str, calibration: str) -> dict[str, Any]:
    spec = {"model": MODEL, "scheme": scheme, "method": method}
    return spec | ({"calibration": calibration} if method != "rtn" else {})


def _job(yard: Yard, kind: str, spec: Mapping[str, Any]) -> tuple[str, float]:
    """The id of a job that has succeeded, and its seconds from POST to there."""
    begun = time.perf_counter()
    job = yard.finished(yard.submit(kind, spec), timeout_s=JOB_S)
    seconds = time.perf_counter() - begun
    assert job["state"] == "succeeded", job["error"]
    return str(job["id"]), seconds


def _phases(yard: Yard, job: str) -> dict[str, float]:
    """Seconds of a forge's phases, as it logs them."""
    lines = _get(yard, f"/v1/jobs/{job}/logs")["data"]
    found = (PHASE.fullmatch(line["message"]) for line in lines)
    return {match[1]: float(match[2]) for match in found if match}


def _get(yard: Yard, path: str) -> Any:
    return yard.client.get(path).raise_for_status().json()


def _note(phases: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items())


def _list(seconds: list[float]) -> str:
    return " ".join(f"{each:.1f}" for each in seconds)
