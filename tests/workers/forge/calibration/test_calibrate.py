"""The whole forge, as a worker starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.contracts.compression import LayerSensitivity, Recommendation, Sampling, Scheme
from shared.contracts.forge import (
    MESSAGE,
    ArtifactMessage,
    DoneMessage,
    ErrorMessage,
    ForgeSpec,
    Message,
    ProgressMessage,
)
from shared.contracts.forge_orders import (
    FACTS_FILE,
    RECOMMENDATION_FILE,
    SAMPLES_FILE,
    SENSITIVITY_FILE,
    STATISTICS_FILE,
    CalibrateOrder,
    CalibrationResult,
    Data,
    SamplingOrder,
    Subject,
)
from workers.forge.calibration.making import make
from workers.forge.calibration.statistics import NAMES
from workers.forge.telling import Tell

YARD_TINY = Path(__file__).parents[4] / "infra" / "models" / "yard-tiny"
CHARTS = {"charts/sensitivity.png", "charts/distribution.png", "charts/activations.png"}
FILES = {FACTS_FILE, RECOMMENDATION_FILE, SAMPLES_FILE, SENSITIVITY_FILE, STATISTICS_FILE, *CHARTS}


def order_of(folder: Path, *, lines: list[dict[str, str]]) -> CalibrateOrder:
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return CalibrateOrder(
        model=Subject(folder=YARD_TINY, name="yard-tiny"),
        samples=SamplingOrder(
            data=[Data(path=data, name="data.jsonl")], sampling=Sampling(samples=12, sequence_length=64)
        ),
        schemes=[Scheme.INT8, Scheme.W4A16, Scheme.FP8],
        group_size=256,
    )


def run(folder: Path, order: CalibrateOrder) -> tuple[int, list[Message]]:
    """Exit status and messages of the forge."""
    spec = ForgeSpec(
        spec=order.model_dump(mode="json"),
        inputs=folder / "in",
        out=folder / "out",
        fingerprint="f",
        parent_pid=os.getpid(),
    )
    spec.out.mkdir()
    (folder / "spec.json").write_text(spec.model_dump_json())
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "workers.forge.calibrate", str(folder / "spec.json")],
        cwd=folder,
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        messages = [MESSAGE.validate_json(line) for line in process.stdout]
    return process.returncode, messages


TEXTS = [
    {"text": "\n".join(f"def function_{line}_{at}(): return {line * at}" for at in range(20))} for line in range(30)
]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Message]]:
    """One run: its folder and what it told."""
    folder = tmp_path_factory.mktemp("calibrate")
    status, messages = run(folder, order_of(folder, lines=TEXTS))
    assert (status, [message for message in messages if isinstance(message, ErrorMessage)]) == (0, [])
    return folder, messages


@pytest.mark.slow
class TestForge:
    def test_the_artifact_is_complete(self, done: tuple[Path, list[Message]]) -> None:
        folder, messages = done
        artifact = folder / "out" / "calibration"
        assert [message.path for message in messages if isinstance(message, ArtifactMessage)] == ["calibration"]
        assert {path.relative_to(artifact).as_posix() for path in artifact.rglob("*.*")} == FILES

    def test_statistics_hold_every_figure_of_every_channel(self, done: tuple[Path, list[Message]]) -> None:
        tensors = load_file(done[0] / "out" / "calibration" / STATISTICS_FILE)
        assert len(tensors) == 21 * 2 * len(NAMES)
        for side, channels in (("input", 640), ("output", 256)):
            for name in NAMES:
                values = tensors[f"model.layers.2.mlp.down_proj.{side}.{name}"]
                assert values.shape == (channels,)
                assert values.dtype == np.float32
        layer = "model.layers.0.self_attn.q_proj.input"
        assert (tensors[f"{layer}.p99"] <= tensors[f"{layer}.p999"]).all()
        assert (tensors[f"{layer}.p999"] <= tensors[f"{layer}.absmax"]).all()

    def test_tables_are_what_their_contracts_say(self, done: tuple[Path, list[Message]]) -> None:
        folder, messages = done
        artifact = folder / "out" / "calibration"
        rows = [LayerSensitivity.model_validate(row) for row in json.loads((artifact / SENSITIVITY_FILE).read_bytes())]
        assert len(rows) == 21
        assert {scheme for row in rows for scheme in row.sqnr_db} == {"int8", "w4a16", "fp8"}
        assert {row.layer[-9:] for row in rows if "w4a16" not in row.sqnr_db} == {"down_proj"}  # 640 columns
        told = messages[-1]
        assert isinstance(told, DoneMessage)
        result = CalibrationResult.model_validate(told.result)
        recommendation = Recommendation.model_validate_json((artifact / RECOMMENDATION_FILE).read_bytes())
        assert result.recommendation == recommendation
        assert recommendation.scheme is Scheme.INT8  # of w4a16's groups, one in four divides nothing
        facts = CalibrationResult.model_validate_json((artifact / FACTS_FILE).read_bytes())
        assert (facts.facts, set(facts.charts)) == (result.facts, CHARTS)
        assert all((folder / "out" / path).is_file() for path in result.charts)
        assert result.facts.tokens == 12 * 64

    def test_progress_ends_at_its_total(self, done: tuple[Path, list[Message]]) -> None:
        told = [message for message in done[1] if isinstance(message, ProgressMessage)]
        for unit, total in (("samples", 12), ("layers", 21)):
            steps = [message for message in told if message.unit == unit]
            assert {message.total for message in steps} == {total}
            assert [message.done for message in steps] == sorted({message.done for message in steps})
            assert steps[-1].done == total

    def test_the_same_order_makes_the_same_files(self, done: tuple[Path, list[Message]], tmp_path: Path) -> None:
        make(order_of(tmp_path, lines=TEXTS), tmp_path, tell=Tell(lambda _message: None), started=monotonic())
        for name in FILES - {FACTS_FILE}:
            first = (done[0] / "out" / "calibration" / name).read_bytes()
            assert (tmp_path / "calibration" / name).read_bytes() == first, name
