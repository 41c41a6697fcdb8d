"""`python -I -m workers.forge.probe spec.json`: steps of waiting, with progress and checkpoints, without a model."""

import os
from pathlib import Path

from shared.contracts.forge import (
    ArtifactMessage,
    CheckpointMessage,
    DoneMessage,
    ForgeSpec,
    LogMessage,
    ProgressMessage,
)
from shared.contracts.probe import ProbeSpec
from workers.forge.pipe import Pipe, start

STATE = "state.txt"  # the one file of a checkpoint: the steps done


def main() -> None:
    """Run the steps."""
    given, pipe = start()
    probe = ProbeSpec.model_validate(given.spec)
    done = _resumed(given)
    if done:
        pipe.send(LogMessage(message=f"resumed at step {done}"))
    while done < probe.steps:
        if pipe.stopping.wait(probe.step_seconds):
            _checkpoint(given, pipe, step=done)
            pipe.stop()
        done += 1
        pipe.send(ProgressMessage(done=done, total=probe.steps))
        if probe.checkpoint_every and done % probe.checkpoint_every == 0 and done < probe.steps:
            _checkpoint(given, pipe, step=done)
    (given.out / "report.txt").write_text(f"{done} steps\n")
    pipe.send(ArtifactMessage(name="report.txt", path="report.txt", media_type="text/plain"))
    pipe.send(DoneMessage())


def _resumed(given: ForgeSpec) -> int:
    return int((given.resume.folder / STATE).read_text()) if given.resume else 0


def _checkpoint(given: ForgeSpec, pipe: Pipe, *, step: int) -> None:
    name = f"checkpoint-{step}"
    folder = given.out / name
    folder.mkdir(exist_ok=True)
    _write_synced(folder / STATE, str(step))
    pipe.send(CheckpointMessage(step=step, folder=name))


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
