"""What a run ends with: the model, charts, figures."""

import math
from time import monotonic

from shared.contracts.tuning import Method, TuningFigures
from shared.contracts.tuning_orders import MODEL_FOLDER, TuneResult
from workers.forge.ranks import rank
from workers.forge.tuning import charts, checkpointing, following, merging, saving, state
from workers.forge.tuning.runs import Run
from workers.forge.tuning.trainer import Tuner

CHARTS = "charts"


def finish(trainer: Tuner) -> TuneResult:
    """Write `out/model` and `out/charts`. Every rank calls it; rank 0 writes."""
    run, step = trainer.run, trainer.state.global_step
    weights = run.best_weights
    if weights is None:
        weights = state.on_cpu(state.trained(trainer.model))
    if run.best_weights is not None and run.best_step != step:
        run.tell.log(f"the result is step {run.best_step}'s, whose validation loss was the lowest")
    names: list[str] = []
    if rank() == 0:
        began = monotonic()
        with saving.whole(run.out / MODEL_FOLDER) as folder:
            if run.order.method is Method.DORA:
                merging.merge_trained(trainer, folder, weights=weights)
            else:
                checkpointing.write_model(trainer, folder, weights=weights)
        names = [f"{CHARTS}/{name}" for name in charts.draw(run.history, run.out / CHARTS)]
        run.tell.log(f"model and charts: {monotonic() - began:.1f} s")
    return TuneResult(figures=_figures(run, step=step), charts=names)


def _figures(run: Run, *, step: int) -> TuningFigures:
    used = run.best_step if run.best_weights is not None else step
    return TuningFigures(
        steps=step,
        epochs=step / math.ceil(len(run.data.train) / run.setting.batch_size),
        trainable=run.shape.trainable,
        parameters=run.shape.parameters,
        tokens=run.totals.tokens,
        trained_tokens=run.totals.targets,
        train_loss=run.totals.loss,
        validation_loss=dict(run.history.validation).get(used or 0),
        best_step=run.best_step,
        stopped_early=run.stopped_early,
        seconds=run.pace.seconds,
        tokens_per_second=run.pace.speed(),
        mfu=run.pace.mfu(),
        peak_memory_bytes=following.memory(),
        setting=run.setting,
        relief=run.order.relief,
        data=run.data.facts,
    )
