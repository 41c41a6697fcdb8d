"""How reports and cards call what was done in a tuning."""

from collections.abc import Iterator

from services.compression import report_words as words
from shared.contracts.tuning import LossOn, Method, Relief, Schedule, Setting, TuningSpec

METHODS = {
    Method.LORA: "LoRA (arXiv 2106.09685)",
    Method.RSLORA: "rank-stabilized LoRA (arXiv 2312.03732)",
    Method.DORA: "DoRA (arXiv 2402.09353), merged into the base",
    Method.FULL: "all weights",
}
SCHEDULES = {
    Schedule.LINEAR: "falls linearly to 0",
    Schedule.COSINE: "falls to 0 as a cosine",
    Schedule.CONSTANT: "stays as it is",
    Schedule.POLYNOMIAL: "falls as a polynomial",
}
LOSSES = {
    LossOn.AUTO: "of completions, of answers in chats, of whole plain texts",
    LossOn.ALL: "of every token",
    LossOn.COMPLETION: "of completions, and of the last answer of a chat",
    LossOn.ASSISTANT: "of every answer of a chat",
}


def method(spec: TuningSpec) -> str:
    """What was trained: `LoRA (…), rank 16, alpha 32, on all-linear`."""
    told = [METHODS[spec.method]]
    if spec.lora is not None:
        shape, targets = spec.lora, spec.lora.target_modules
        told.append(f"rank {shape.rank}, alpha {words.figure(shape.alpha or 0, 3)}")
        told += [f"dropout {shape.dropout:g}"] if shape.dropout else []
        told.append(f"on {targets if isinstance(targets, str) else ', '.join(targets)}")
    return ", ".join(told)


def hyperparameters(spec: TuningSpec, setting: Setting) -> Iterator[tuple[str, str]]:
    """Names of what shaped the result, and their values."""
    training = spec.training
    rate = f"{training.learning_rate or 0:g}, {SCHEDULES[training.schedule]}"
    yield "Learning rate", f"{rate}, after {training.warmup:.3g} of all steps of warm-up"
    yield "Batch", f"{setting.batch_size} {'packed rows' if setting.packing else 'samples'} a step"
    yield "Length", f"at most {setting.max_length:,} tokens; longer ones: {training.too_long}"
    yield "Loss", LOSSES[training.loss_on]
    if training.weight_decay:
        yield "Weight decay", f"{training.weight_decay:g}"
    if training.label_smoothing:
        yield "Label smoothing", f"{training.label_smoothing:g}"
    if training.neftune_alpha is not None:
        yield "NEFTune (arXiv 2310.05914)", f"alpha {training.neftune_alpha:g}"
    yield "Gradients", f"cut at a norm of {training.max_grad_norm:g}"
    if training.early_stopping is not None:
        stopping = training.early_stopping
        yield "Early stopping", f"after {stopping.patience} looks without {stopping.threshold:g} of improvement"
    yield "Seed", str(training.seed)


def ways(setting: Setting) -> Iterator[tuple[str, str]]:
    """Names of what made it fit and run, and their values."""
    yield "Devices", f"{setting.devices}" + (", weights and optimizer sharded (FSDP2)" if setting.devices > 1 else "")
    yield "Micro-batch", f"{setting.micro_batch_size}, {setting.accumulation} to a step on each device"
    yield "Precision", setting.precision
    yield "Attention", setting.attention
    yield "Gradient checkpointing", _switch(setting.gradient_checkpointing)
    yield "Compiled layers", _switch(setting.compiled)
    yield "Activations in the host's memory", _switch(setting.activation_offloading)


def relieved(relief: Relief) -> list[str]:
    """What a run did after it had run out of memory, in its order; nothing where it had enough."""
    told = []
    if relief.halvings:
        times = "once" if relief.halvings == 1 else f"{relief.halvings} times"
        told.append(f"the micro-batch was halved {times}; the batch stayed as it was")
    if relief.gradient_checkpointing:
        told.append("activations were computed again instead of kept (gradient checkpointing)")
    if relief.activation_offloading:
        told.append("activations waited in the host's memory")
    if relief.devices is not None:
        told.append(f"weights and optimizer were sharded over {relief.devices} devices")
    return told


def _switch(on: bool) -> str:  # noqa: FBT001 - of a table
    return "on" if on else "off"
