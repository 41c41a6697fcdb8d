"""When a run is logged, saved and stopped."""

from time import monotonic
from typing import Any, Final

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workers.forge.ranks import world_size
from workers.forge.tuning.runs import Run

_MINUTE: Final = 60.0


class Flow(TrainerCallback):
    """After each step: whether a checkpoint is due, and whether the worker wants an end.

    A checkpoint is due by steps, by minutes, at a validation loss that is lower than any before, at the last step, and
    when the run is told to stop.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._saved_at = monotonic()

    def on_train_begin(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> TrainerControl:
        """Progress from where the run stands; the clock of checkpoints begins."""
        self._run.tell.progress(state.global_step, state.max_steps, "steps")
        self._run.pace.begin()
        self._saved_at = monotonic()
        self._run.pipe.heeding.set()
        return control

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> TrainerControl:
        """See whether the run is to be logged, saved, stopped."""
        run = self._run
        run.tell.progress(state.global_step, state.max_steps, "steps")
        stopping, due = self._agreed()
        by_steps = run.order.checkpoints.every_steps
        if stopping and state.global_step < state.max_steps:
            control.should_training_stop = True
            control.should_evaluate = False  # who stops us does not wait for it: it is made up for (`job`)
        control.should_save = bool(
            control.should_training_stop or due or (by_steps is not None and state.global_step % by_steps == 0)
        )
        control.should_log |= control.should_save or control.should_evaluate
        return control

    def on_evaluate(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> TrainerControl:
        """Keep what is better than all before; end where early stopping (which comes before us) says so."""
        run = self._run
        if control.should_training_stop and state.global_step < state.max_steps:
            run.stopped_early = True
        control.should_save |= run.best_step == state.global_step or control.should_training_stop
        return control

    def on_save(self, _: TrainingArguments, __: TrainerState, control: TrainerControl, **___: Any) -> TrainerControl:
        """The next minutes begin."""
        self._saved_at = monotonic()
        return control

    def _agreed(self) -> tuple[bool, bool]:
        """(told to stop, checkpoint due by time), of any rank: all of them do the same at the same step."""
        run = self._run
        stopping = run.pipe.stopping.is_set()
        due = monotonic() - self._saved_at >= run.order.checkpoints.every_minutes * _MINUTE
        if world_size() > 1:
            either = torch.tensor([stopping, due], dtype=torch.uint8)
            torch.distributed.all_reduce(either, op=torch.distributed.ReduceOp.MAX)
            stopping, due = (bool(each) for each in either.tolist())
        return stopping, due
