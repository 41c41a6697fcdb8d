"""TRL's trainer, with rows, checkpoints and figures of ours.

What TRL and transformers do well is theirs: the loop, accumulation, schedules, clipping, NEFTune, the fused head,
sharding. Ours are the order of the rows (`ordering`), figures that no GPU waits for (`metering`), the validation loss
(of all tokens alike, where transformers takes the mean of batches), and checkpoints without pickles.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from datasets import Dataset
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, TrainerState
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from shared.contracts.tuning_orders import VALIDATION_ACCURACY, VALIDATION_LOSS
from workers.forge.ranks import rank, world_size
from workers.forge.refusing import Refused
from workers.forge.tuning import quick_head, state
from workers.forge.tuning.collating import COUNTS, IGNORED
from workers.forge.tuning.following import Sums, Tally
from workers.forge.tuning.metering import Meter
from workers.forge.tuning.optimizing import LocalAdamW
from workers.forge.tuning.ordering import NOTHING, Order, Rows
from workers.forge.tuning.runs import Run
from workers.forge.tuning.state import TRAINER

_EVALUATED: Final = "eval_loss"  #: transformers' key


class Tuner(SFTTrainer):
    """Trains a model as a run says."""

    control: Any  # transformers', like the next
    _globalstep_last_logged: int

    def __init__(self, model: Any, run: Run, *, tokenizer: Any, args: SFTConfig, callbacks: list[Any]) -> None:
        self.run = run
        base = model.get_base_model() if run.order.method.adapts else model
        placeholder = Dataset.from_dict({"row": [0]})  # TRL wants one of these; rows come from `get_train_dataloader`
        adam = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
        super().__init__(
            model=model,
            args=args,
            data_collator=run.collator,
            train_dataset=placeholder,
            eval_dataset=placeholder if run.data.validation else None,
            processing_class=tokenizer,
            callbacks=callbacks,
            optimizer_cls_and_kwargs=(LocalAdamW, adam),
        )
        self.remove_callback(PrinterCallback)
        self._smoothing = run.order.training.label_smoothing
        self._quick = quick_head.attach(base)
        if not self._quick:  # once more, without the entropy, which nobody asks for
            add_fused_lm_head(base, outputs=("log_probs", "is_top1"))
        self.meter = Meter(run, self.model)
        self.order = Order(
            [len(row.ids_T) for row in run.data.train],
            batch_size=run.setting.batch_size,
            micro_batch_size=run.setting.micro_batch_size,
            seed=run.order.training.seed,
            rank=rank(),
            devices=world_size(),
        )
        self._trained: list[Any] = []

    # --------------------------------------------------------------------------------------------- data
    def get_train_dataloader(self) -> Any:
        """Rows in our order; each rank reads its own."""
        return self._loader(self.run.data.train, self.order)

    def _loader(self, rows: Any, order: Sampler[list[int]]) -> Any:
        return DataLoader(
            Rows(rows, padding=self.run.collator.padding),
            batch_sampler=order,
            collate_fn=self.run.collator,
            pin_memory=self.run.on.gpu,
            generator=torch.Generator(),  # its own: a loader's seed would be drawn from what dropout draws from
        )

    def _run_epoch(self, *, epoch: int, **given: Any) -> None:
        self.order.epoch = epoch
        super()._run_epoch(epoch=epoch, **given)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> int:  # noqa: ARG002 - transformers' signature
        """Tokens that a whole step's loss is of, on all devices."""
        targets = torch.tensor(sum(batch[COUNTS].targets for batch in batch_samples))
        if world_size() > 1:
            torch.distributed.all_reduce(targets)
        return max(1, int(targets))

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """To the device, without waiting for what it is doing: they lie in pinned memory."""
        to = {"device": self.args.device, "non_blocking": True}
        return {name: each.to(**to) if isinstance(each, torch.Tensor) else each for name, each in inputs.items()}

    def _send_telemetry(self) -> None:
        """Nothing of a run is told to anyone but its worker."""

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002 - transformers' signature
        """None: transformers would count all parameters at every micro-batch; `following.flops` is ours."""
        return 0

    # --------------------------------------------------------------------------------------------- steps
    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        # A walk through some thousand modules takes milliseconds, and each step would take several.
        self.model.train()  # `training_step` looks at the outermost alone; PEFT's is in training when its base is not
        self._trained = list(state.trained(self.model).values())
        self.model.zero_grad = self._forget_gradients
        if self.args.fp16:  # accelerate has the scaler, and casts
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self.create_optimizer()
        self.create_scheduler(num_training_steps=max_steps)
        if resume_from_checkpoint is not None:
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return self.model, train_dataloader  # neither wrapped nor moved: it is sharded, or on its one device

    def _forget_gradients(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - torch's signature
        assert set_to_none
        for parameter in self._trained:
            parameter.grad = None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Forwards and backwards through a micro-batch: its loss, on the device."""
        if not model.training:
            model.train()
        self.meter.start()
        with self.maybe_activation_offload_context:
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
            self.accelerator.backward(loss)
        return loss.detach()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
        num_items_in_batch: Any = None,
    ) -> Any:
        """Of a micro-batch: its tokens' losses, divided by the tokens of the whole step."""
        assert not return_outputs
        assert num_items_in_batch is not None
        counts = inputs.pop(COUNTS)
        summed, correct, balancing = self._sums(model, inputs)
        self.meter.add(counts, nll=summed.detach(), correct=correct)
        loss = summed * (world_size() / num_items_in_batch)  # FSDP takes the mean of the ranks' gradients
        if balancing is not None:
            loss = loss + balancing / self.current_gradient_accumulation_steps
        return loss

    def _sums(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """(loss, right guesses) of all targets, and a mixture's balancing loss."""
        smoothing = self._smoothing if model.training else 0.0
        if self._quick:
            found = model(**inputs, quick_head=True, smoothing=smoothing)
            return found.nll, found.correct, None
        extra = {"use_cache": False} | ({"output_router_logits": True} if self.aux_loss_enabled else {})
        if smoothing:
            labels_BT = inputs.pop("labels")
            found = model(**inputs, **extra)
            logits_NV, labels_N = found.logits[:, :-1].float().flatten(0, 1), labels_BT[:, 1:].flatten()
            summed = functional.cross_entropy(
                logits_NV, labels_N, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing
            )
            correct = (logits_NV.detach().argmax(-1) == labels_N).sum()
        else:
            found = model(**inputs, **extra, fused_lm_head=True)
            summed, correct = -found.log_probs.sum(), found.is_top1.sum()
        balancing = self.router_aux_loss_coef * found.aux_loss if self.aux_loss_enabled else None
        return summed, correct, balancing

    def _clip_grad_norm(self, model: Any) -> Any:
        if scaled := self.accelerator.scaler is not None:
            norm = super()._clip_grad_norm(model)  # it unscales them
        else:
            norm = clip_grad_norm_(self._trained, self.args.max_grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self.plain_optimizer.skipped = self.meter.judge(norm, step=self.state.global_step + 1, scaled=scaled)
        return norm

    # --------------------------------------------------------------------------------------------- figures
    def _maybe_log_save_evaluate(  # noqa: PLR0917 - transformers' signature
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, epoch: float, *_: Any, **given: Any
    ) -> None:
        """After a step: take its figures, look at the validation loss, save, as `control` says."""
        step = self.state.global_step
        if self.control.should_log and step > self._globalstep_last_logged:
            self._globalstep_last_logged = step
            place = float(self.state.epoch or epoch)
            self.meter.take(step, norm=grad_norm, learning_rate=given["learning_rate"], epoch=place)
        if self.control.should_evaluate or self.control.should_save or self.control.should_training_stop:
            self.meter.tell()
        tr_loss.zero_()
        if self.control.should_evaluate:
            self.evaluate()
        if self.control.should_save:
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What transformers says at the end of a run is told nobody: figures come from the meter."""

    # --------------------------------------------------------------------------------------------- validation
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss of the validation rows, of all their tokens alike."""
        run, step = self.run, self.state.global_step
        with run.pace.aside():
            found = self._validate()
        if not math.isfinite(found.loss):
            raise Refused("loss_not_finite", f"The validation loss of step {step} is not finite", str(found.loss))
        run.history.validation.append((step, found.loss))
        if run.best_loss is None or found.loss < run.best_loss:
            run.best_step, run.best_loss = step, found.loss
            if run.order.training.early_stopping is not None:
                run.best_weights = state.on_cpu(state.trained(self.model))
        values = {VALIDATION_LOSS: found.loss, VALIDATION_ACCURACY: found.accuracy}
        run.newest = run.newest | values
        run.tell.metric(step, **values)
        metrics = {_EVALUATED: found.loss}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._determine_best_metric(metrics, None)  # which early stopping has compared with the one before
        return metrics

    @torch.no_grad()
    def _validate(self) -> Sums:
        rows = self.run.data.validation
        tally = Tally()
        self.model.eval()
        for batch in self._loader(rows, _InTurn([len(row.ids_T) for row in rows], self.run.setting.micro_batch_size)):
            inputs = self._prepare_inputs(batch)
            counts = inputs.pop(COUNTS)
            with self.compute_loss_context_manager():
                summed, correct, _ = self._sums(self.model, inputs)
            tally.add(counts, nll=summed, correct=correct)
        counts, figures = tally.together(ranks=world_size())
        return Sums(*counts.tolist(), *figures.tolist())

    # --------------------------------------------------------------------------------------------- checkpoints
    def restore(self, folder: Path) -> None:
        """Take up a run that a checkpoint says is at its end: nothing is left to train."""
        self.state = TrainerState.load_from_json(str(folder / TRAINER))
        self._load_from_checkpoint(str(folder))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002 - transformers' signature
        with self.run.pace.aside():
            self.run.save(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state.restore_weights(model or self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        assert checkpoint is not None
        place = state.read_place(Path(checkpoint))
        self.meter.begin(place.step)
        state.restore_optimizer(self.model, self.plain_optimizer, Path(checkpoint), place)
        self.lr_scheduler.load_state_dict(place.scheduler)

    def _load_scaler(self, checkpoint: str | None) -> None:
        assert checkpoint is not None
        kept = state.read_place(Path(checkpoint)).scaler
        if kept is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(kept)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        assert checkpoint is not None
        state.restore_random(Path(checkpoint), state.read_place(Path(checkpoint)))

    @property
    def plain_optimizer(self) -> LocalAdamW:
        """The optimizer, without accelerate's wrapper."""
        found = getattr(self.optimizer, "optimizer", self.optimizer)
        assert isinstance(found, LocalAdamW)
        return found


@dataclass
class _InTurn(Sampler[list[int]]):
    """Numbers of rows, the longest first, so many at once for each rank."""

    lengths: Sequence[int]
    at_once: int

    def __iter__(self) -> Iterator[list[int]]:
        order = sorted(range(len(self.lengths)), key=lambda number: -self.lengths[number])
        together = self.at_once * world_size()
        for start in range(0, len(order), together):
            yield order[start : start + together][rank() :: world_size()] or [NOTHING]
