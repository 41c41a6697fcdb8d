"""The forge as a process: stopped, killed, shared out among ranks, and every time it goes on."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from shared.contracts.forge import EXIT_STOPPED, MESSAGE, CheckpointMessage, DoneMessage, MetricMessage
from shared.contracts.forge_orders import Data
from shared.contracts.tuning_orders import TuneOrder, TuneResult
from tests.workers.forge.tuning.given import forge_spec, order, run, same, weights

RANKS = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
ISOLATED = {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}


class Forge:
    """A started forge, on one rank or two."""

    def __init__(self, given: TuneOrder, folder: Path, *, resume: Path | None = None, ranks: int = 1) -> None:
        self.out = folder / "out"
        self.out.mkdir(parents=True)
        path = folder / "spec.json"
        path.write_text(
            forge_spec(given, self.out, resume=resume, threads=ranks, parent_pid=os.getpid()).model_dump_json()
        )
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", *(RANKS if ranks > 1 else []), "workers.forge.tune", path],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=ISOLATED if ranks > 1 else {},
                cwd=folder, start_new_session=True,
            )  # fmt: skip

    def messages(self) -> Iterator[Any]:
        assert self.process.stdout is not None
        return map(MESSAGE.validate_json, self.process.stdout)

    def checkpoints(self) -> Iterator[Path]:
        return (self.out / each.folder for each in self.messages() if isinstance(each, CheckpointMessage))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:  # waits, and closes its pipes
            pass


class TestForge:
    @pytest.mark.slow
    @pytest.mark.faults
    def test_stopped_and_killed_it_ends_as_if_nothing_had_been(
        self, tiny: Path, examples: Data, tmp_path: Path
    ) -> None:
        options: dict[str, Any] = {"lora": {"dropout": 0.1}, "training": {"neftune_alpha": 5.0, "steps": 40}}
        given = order(tiny, examples, **options, checkpoints={"every_steps": 5})
        # Given a forge that is told to stop
        with Forge(given, tmp_path / "stopped") as forge:
            next(each for each in forge.messages() if isinstance(each, MetricMessage))
            forge.process.send_signal(signal.SIGTERM)
            *_, saved = forge.checkpoints()
            assert forge.process.wait(10) == EXIT_STOPPED
        # And one that goes on from there, and is killed while it works
        with Forge(given, tmp_path / "killed", resume=saved) as forge:
            checkpoints = forge.checkpoints()
            next(checkpoints)
            saved = shutil.copytree(next(checkpoints), tmp_path / next(forge.out.glob("checkpoint-*")).name)
            forge.process.kill()
        # When the rest is trained
        rest = run(given, tmp_path / "rest", resume=saved)
        # Then it is what would have been
        undisturbed = run(given, tmp_path / "undisturbed")
        assert 0 < len(rest.losses) < 40
        assert rest.losses.items() <= undisturbed.losses.items()
        assert same(rest.weights, undisturbed.weights)

    @pytest.mark.slow
    def test_two_ranks_train_what_one_does_and_one_goes_on(self, tiny: Path, examples: Data, tmp_path: Path) -> None:
        given = order(tiny, examples, "full", training={"micro_batch_size": 2, "steps": 4, "learning_rate": 1e-3},
                      checkpoints={"every_steps": 2}, validation_share=0.1)  # fmt: skip
        with Forge(given, tmp_path / "ranks", ranks=2) as forge:
            *told, done = forge.messages()
            assert forge.process.wait(10) == 0
        assert isinstance(done, DoneMessage)
        figures = TuneResult.model_validate(done.result).figures
        assert (figures.setting.devices, figures.setting.accumulation) == (2, 2)
        alone = run(given, tmp_path / "alone")
        losses = {
            each.step: each.values["loss"] for each in told if isinstance(each, MetricMessage) and "loss" in each.values
        }
        assert losses == pytest.approx(alone.losses, rel=1e-4)
        assert figures.validation_loss == pytest.approx(alone.result.figures.validation_loss, rel=1e-4)
        assert figures.tokens == alone.result.figures.tokens
        # A checkpoint of two is one of one
        folder = forge.out / next(
            each.folder for each in told if isinstance(each, CheckpointMessage) and each.step == 2
        )
        again = run(given, tmp_path / "again", resume=folder)
        assert again.losses == pytest.approx({at: losses[at] for at in (3, 4)}, rel=1e-4)
        assert again.weights.keys() == weights(forge.out / "model").keys()
