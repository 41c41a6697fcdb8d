"""What TRL, transformers and accelerate are told of a run."""

import math
from typing import Any, Final

from trl import SFTConfig

from shared.contracts.tuning import Schedule
from workers.forge.ranks import world_size
from workers.forge.tuning.runs import Run

EVALUATIONS: Final = 10  #: of a run, where nobody says


def arguments(run: Run) -> SFTConfig:
    """A run in TRL's words. What is left at its default is not used, or has no better value."""
    training, setting = run.order.training, run.setting
    assert training.learning_rate is not None
    return SFTConfig(
        output_dir=str(run.out),
        per_device_train_batch_size=setting.micro_batch_size,
        gradient_accumulation_steps=setting.accumulation,
        max_steps=run.steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule.value,
        lr_scheduler_kwargs={"lr_end": 0.0} if training.schedule is Schedule.POLYNOMIAL else None,
        warmup_steps=int(training.warmup * run.steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        neftune_noise_alpha=training.neftune_alpha,
        seed=training.seed,
        bf16=False,  # weights are in bf16 themselves, where they are: autocast would cost a tenth of the speed
        fp16=run.on.precision == "fp16",
        use_cpu=not run.on.gpu,
        gradient_checkpointing=setting.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if setting.gradient_checkpointing else None,
        activation_offloading=setting.activation_offloading,
        logging_steps=training.log_every,
        logging_nan_inf_filter=False,  # `Meter` looks
        save_strategy="no",  # `Flow` says when
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        remove_unused_columns=False,
        **(_validation(run) if run.data.validation else {}),
        **({} if run.on.gpu or world_size() == 1 else {"ddp_backend": "gloo"}),
    )


def is_due(run: Run, step: int) -> bool:
    """Whether the validation loss is looked at after a step."""
    return bool(run.data.validation) and (step % _every(run) == 0 or step == run.steps)


def _every(run: Run) -> int:
    return run.order.training.evaluate_every or math.ceil(run.steps / EVALUATIONS)


def _validation(run: Run) -> dict[str, Any]:
    return {
        "eval_strategy": "steps",
        "eval_steps": _every(run),
        "metric_for_best_model": "loss",
        "greater_is_better": False,
    }
