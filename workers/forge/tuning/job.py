"""A tuning from its order to its result: data, base, setting, training, result."""

from pathlib import Path
from time import monotonic
from typing import Any, Final

import torch
from transformers import EarlyStoppingCallback

from shared.contracts.forge import ForgeSpec, Resume, SettingMessage
from shared.contracts.tuning_orders import DATA_REPORT, STATE_FOLDER, TuneOrder, TuneResult
from workers.forge.checkpoints import check_folder, load_tokenizer, read_config
from workers.forge.pipe import Pipe
from workers.forge.ranks import rank, world_size
from workers.forge.telling import Tell
from workers.forge.tuning import (
    adapting,
    attention,
    checkpointing,
    fitting,
    loading,
    quick_lora,
    results,
    saving,
    sharding,
)
from workers.forge.tuning.arguments import arguments, is_due
from workers.forge.tuning.collating import Collator
from workers.forge.tuning.flow import Flow
from workers.forge.tuning.loading import Device
from workers.forge.tuning.runs import Material, Run
from workers.forge.tuning.samples import load
from workers.forge.tuning.state import Place
from workers.forge.tuning.trainer import Tuner

MULTIPLE: Final = 64  #: of tokens, on a GPU: fewer shapes to compile


def tune(order: TuneOrder, spec: ForgeSpec, *, pipe: Pipe, started: float) -> TuneResult:
    """Train, writing checkpoints below `spec.out`, and write `out/model`. Under torchrun every rank calls it.

    `started` is when the process began (`time.monotonic`). Ends the process where it is told to stop.

    Raises:
        Refused: what is wrong with the order, the base or the data; `data_changed`; `loss_not_finite`.
    """
    tell = Tell(pipe.send)
    tell.log(f"imports: {monotonic() - started:.1f} s")
    saving.sweep(spec.out)
    check_folder(order.model.folder)
    read_config(order.model.folder)
    tokenizer = load_tokenizer(order.model.folder)
    data = load(order, tokenizer, tell=tell)
    place = checkpointing.check(spec.resume, data_sha256=data.facts.sha256) if spec.resume else None
    if rank() == 0:
        (spec.out / DATA_REPORT).write_text(data.facts.model_dump_json(indent=2))
    # Sums of other parts are other sums: the threads that a checkpoint was made with go before ours.
    threads = place.threads if place else max(1, spec.threads // world_size())
    torch.set_num_threads(threads)
    on = loading.device(order.training.precision, devices=world_size())
    sharding.meet(on)
    given = Material(order=order, data=data, tokenizer=tokenizer, out=spec.out, pipe=pipe, on=on, threads=threads)
    return train(given, resume=spec.resume, place=place)


def train(given: Material, *, resume: Resume | None, place: Place | None) -> TuneResult:
    """The same, with the data at hand."""
    began = monotonic()
    model = prepare(given.order, given.on)
    name, on = given.order.model.name, given.on
    given.tell.log(f"{name}: loaded in {monotonic() - began:.1f} s to {on.name}, in {on.precision}")
    run = _run(given, model, place=place)
    run.pipe.send(SettingMessage(setting=run.setting.model_dump(mode="json")))
    run.tell.log(_said(run))
    trainer = _trainer(model, run, tokenizer=given.tokenizer, place=place)
    folder = None
    if resume is not None and place is not None:
        checkpointing.take_up(run, place, resume)
        run.tell.log(f"goes on after step {place.step} of {run.steps}")
        folder = resume.folder / STATE_FOLDER
    if folder is not None and place is not None and (place.step >= run.steps or place.stopped_early):
        trainer.restore(folder)
    else:
        # A run that was told to stop did not wait for the look at the validation loss that was due.
        seen = dict(run.history.validation)
        trainer.args.eval_on_start = place is not None and is_due(run, place.step) and place.step not in seen
        _go(trainer, folder)
    return results.finish(trainer)


def prepare(order: TuneOrder, on: Device) -> Any:
    """The model with what is to be trained of it."""
    torch.manual_seed(order.training.seed)  # adapters begin with random numbers
    model = loading.load(order.model.folder, method=order.method, on=on)
    if not order.method.adapts:
        return model
    assert order.lora is not None
    adapted = adapting.adapt(model, order.lora, method=order.method)
    if on.precision == "bf16":
        quick_lora.quicken(adapted)
    return adapted


def _run(given: Material, model: Any, *, place: Place | None) -> Run:
    decided = fitting.decide(given, model, place=place)
    setting = decided.setting
    padding = (given.tokenizer.pad_token_id, given.tokenizer.eos_token_id, 0)
    return Run(
        order=given.order,
        data=given.data,
        setting=setting,
        chosen=decided.chosen,
        shape=decided.shape,
        steps=decided.steps,
        out=given.out,
        pipe=given.pipe,
        tell=given.tell,
        on=given.on,
        threads=given.threads,
        collator=Collator(
            padding=next(each for each in padding if each is not None),
            packed=setting.packing,
            length=setting.max_length,
            flat=setting.packing and setting.attention == attention.VARLEN,
            multiple=MULTIPLE if given.on.gpu else 1,
        ),
        save=checkpointing.save,
    )


def _trainer(model: Any, run: Run, *, tokenizer: Any, place: Place | None) -> Tuner:
    if run.setting.packing and run.setting.attention == attention.PLAIN and rank() == 0:
        attention.check_apart(model)
    if run.setting.compiled:
        for layer in loading.decoder_layers(model):
            layer.compile()
    if world_size() > 1:
        sharding.shard(model, run.on)
    callbacks: list[Any] = []
    if (stopping := run.order.training.early_stopping) is not None:
        early = EarlyStoppingCallback(stopping.patience, stopping.threshold)
        early.early_stopping_patience_counter = place.patience if place else 0
        callbacks.append(early)
    trainer = Tuner(model, run, tokenizer=tokenizer, args=arguments(run), callbacks=[*callbacks, Flow(run)])
    if world_size() > 1:  # each rank drops other numbers
        torch.manual_seed(run.order.training.seed + rank())
    return trainer


def _go(trainer: Tuner, folder: Path | None) -> None:
    """Train to the end, from wherever a checkpoint says; leave where the worker asks for it."""
    run = trainer.run
    trainer.train(resume_from_checkpoint=str(folder) if folder else None)
    run.pipe.heeding.clear()
    if trainer.state.global_step < run.steps and not run.stopped_early:
        run.pipe.stop()


def _said(run: Run) -> str:
    of, to = run.shape, run.setting
    words = [
        f"{of.trainable:,} of {of.parameters:,} parameters are trained in {run.steps:,} steps of {to.batch_size} rows",
        f"({to.devices} × {to.accumulation} × {to.micro_batch_size}) of at most {to.max_length:,} tokens",
    ]
    also = {
        "gradient checkpointing": to.gradient_checkpointing,
        "compiled layers": to.compiled,
        "activations wait in the host's memory": to.activation_offloading,
        "packed": to.packing,
    }
    return ", ".join([" ".join(words), *(name for name, on in also.items() if on)])
