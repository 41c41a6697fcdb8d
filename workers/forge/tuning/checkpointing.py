"""A run's checkpoint: `model/`, which is served, and `state/`, from which the run goes on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from transformers import EarlyStoppingCallback

from shared.contracts.forge import CheckpointMessage, Resume
from shared.contracts.tuning_orders import MODEL_FOLDER, STATE_FOLDER, VALIDATION_LOSS
from workers.forge.ranks import rank
from workers.forge.refusing import Refused
from workers.forge.tuning import adapting, saving, state
from workers.forge.tuning.runs import Run
from workers.forge.tuning.state import BEST, TENSORS, TRAINER, Place
from workers.forge.tuning.trainer import Tuner

_WEIGHT: Final = ".weight"


def save(trainer: Tuner) -> None:
    """Write a checkpoint of this step and tell the worker; where the disk has no room, go on without it.

    Every rank calls it, for what is sharded is gathered; rank 0 writes.
    """
    pieces = state.tensors(trainer.model, trainer.plain_optimizer)
    try:
        if rank() == 0:
            with saving.spared(trainer.run.tell, trainer.state.global_step):
                _save(trainer, pieces)
    finally:
        for _ in pieces:  # the other ranks are in the midst of it, whatever came of the disk
            pass


def _save(trainer: Tuner, pieces: Iterator[tuple[str, Any]]) -> None:
    run, step = trainer.run, trainer.state.global_step
    loss = run.newest.get(VALIDATION_LOSS)
    best = loss is not None and (run.best_saved is None or loss <= run.best_saved)
    before, run.best_saved = run.best_saved, loss if best else run.best_saved
    name = saving.new_name(step)
    try:
        with saving.whole(run.out / name) as folder:
            for part in (MODEL_FOLDER, STATE_FOLDER):
                (folder / part).mkdir()
            weights = _write_state(trainer, folder / STATE_FOLDER, pieces)
            write_model(trainer, folder / MODEL_FOLDER, weights=weights)
    except BaseException:
        run.best_saved = before
        raise
    run.pipe.send(CheckpointMessage(step=step, folder=name, metrics=run.newest, best=best))


def _write_state(trainer: Tuner, folder: Path, pieces: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """Everything that a run goes on from; the weights, by the names of their parameters."""
    run = trainer.run
    dtypes = {name: each.dtype for name, each in state.trained(trainer.model).items()}
    weights: dict[str, Any] = {}

    def passing() -> Iterator[tuple[str, Any]]:
        for key, value in pieces:
            if key.endswith(_WEIGHT) and (name := key.removesuffix(_WEIGHT)) in dtypes:
                weights[name] = value.to(dtypes[name])
            yield key, value

    state.write(passing(), folder, TENSORS)
    if run.best_weights is not None and run.best_step != trainer.state.global_step:
        state.write(iter(run.best_weights.items()), folder, BEST)
    python, numpy = state.write_random(folder)
    (folder / state.PLACE).write_text(_place(trainer, python=python, numpy=numpy).model_dump_json())
    trainer.state.save_to_json(str(folder / TRAINER))
    return weights


def _place(trainer: Tuner, *, python: list[Any], numpy: list[Any]) -> Place:
    run, scaler, optimizer = trainer.run, trainer.accelerator.scaler, trainer.plain_optimizer
    patience = [each for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
    return Place(
        step=trainer.state.global_step,
        data_sha256=run.data.facts.sha256,
        seed=run.order.training.seed,
        threads=run.threads,
        setting=run.setting,
        relief=run.order.relief,
        chosen=run.chosen,
        learning_rates=[group["lr"] for group in optimizer.param_groups],
        scheduler=trainer.lr_scheduler.state_dict(),
        scaler=scaler.state_dict() if scaler is not None else None,
        patience=patience[0].early_stopping_patience_counter if patience else 0,
        stopped_early=run.stopped_early,
        best_step=run.best_step,
        best_loss=run.best_loss,
        best_saved=run.best_saved,
        totals=run.totals,
        history=run.history,
        python=python,
        numpy=numpy,
    )


def write_model(trainer: Tuner, folder: Path, *, weights: Mapping[str, Any]) -> None:
    """What is served: an adapter's two files, or a whole model."""
    order = trainer.run.order
    if order.method.adapts:
        adapting.save(trainer.model, folder, base=order.model.name, tensors=weights)
    else:
        saving.save_model(trainer.model, folder, base=order.model.folder, tensors=weights)


def check(resume: Resume, *, data_sha256: str) -> Place:
    """The place of a checkpoint, if it belongs to the data.

    Raises:
        Refused: `data_changed`.
    """
    place = state.read_place(resume.folder / STATE_FOLDER)
    if place.data_sha256 != data_sha256:
        detail = f"the checkpoint's {place.data_sha256[:16]}…, now {data_sha256[:16]}…"
        raise Refused("data_changed", "The data is not what the checkpoint was trained on", detail)
    return place


def take_up(run: Run, place: Place, resume: Resume) -> None:
    """Put an account that a checkpoint has kept into a run."""
    run.totals, run.history = place.totals, place.history
    run.best_step, run.best_loss, run.best_saved = place.best_step, place.best_loss, place.best_saved
    run.stopped_early = place.stopped_early
    if run.order.training.early_stopping is not None and place.best_step is not None:
        folder = resume.folder / STATE_FOLDER
        run.best_weights = {} if rank() else state.read(folder, BEST) or state.weights(folder)
