"""What tunings are told to take, how they go, and what came of them, in the words of a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.cli.amounts import count, size
from services.cli.client import Client
from services.cli.job_view import show_fields
from services.cli.output import say, table
from shared.contracts import tuning_orders as keys

#: of a table of metrics, where any step has them: heading, name of the value, form
COLUMNS = (
    ("loss", keys.LOSS, "{:.4f}"),
    ("validation", keys.VALIDATION_LOSS, "{:.4f}"),
    ("accuracy", keys.ACCURACY, "{:.1%}"),
    ("learning rate", keys.LEARNING_RATE, "{:.2e}"),
    ("grad norm", keys.GRAD_NORM, "{:.3g}"),
    ("tokens/s", keys.TOKENS_S, "{:,.0f}"),
    ("MFU", keys.MFU, "{:.1%}"),
    ("epoch", keys.EPOCH, "{:.2f}"),
)


def show_metrics(rows: Sequence[Mapping[str, Any]]) -> None:
    """Steps of a run as a table; what no step has told is left out."""
    known = [column for column in COLUMNS if any(column[1] in row["values"] for row in rows)]
    table(
        ("step", *(heading for heading, _, _ in known)),
        [(row["id"], *(_cell(row["values"], name, form) for _, name, form in known)) for row in rows],
    )


def live(values: Mapping[str, float]) -> str:
    """The newest figures of a run in a line: `loss 0.4213, validation 0.5012, lr 1.2e-04, 1,204 tokens/s`."""
    forms = (
        (keys.LOSS, "loss {:.4f}"),
        (keys.VALIDATION_LOSS, "validation {:.4f}"),
        (keys.LEARNING_RATE, "lr {:.1e}"),
        (keys.TOKENS_S, "{:,.0f} tokens/s"),
    )
    return ", ".join(form.format(values[name]) for name, form in forms if name in values)


def show_made(client: Client, found: Mapping[str, Any]) -> None:
    """What a tuning or a merge has made. `found` is `GET /v1/jobs/{id}/result`."""
    if found["figures"]:
        show_fields(_figures(found["figures"]))
    if found["model"]:
        show_fields(_model(client.get(f"/v1/models/{found['model']}")))
    show_fields((name, found[name]) for name in ("file", "artifact"))


def show_advice(draft: Mapping[str, Any]) -> None:
    """What a tuning would take (`--dry-run`); `draft` is the answer of `validate_only`."""
    plan, advice = draft["plan"], draft["advice"]
    memory, setting = advice["memory"], advice["setting"]
    parts = ", ".join(f"{name} {size(held)}" for name, held in memory.items() if name not in ("total", "room"))
    show_fields([
        ("queue", f"{plan['queue']}: {plan['reason']}"),
        ("memory", f"{size(memory['total'])}: {parts}"),
        ("setting", _setting(setting)),
        ("trains", f"{count(advice['trainable_parameters'])} parameters"),
        ("data", f"about {advice['tokens']:,} tokens in {advice['steps']:,} steps"),
        ("speed", f"{advice['tokens_per_second']:,} tokens/s"),
        ("cost", f"{advice['cost']:.6f}"),
        *(("note", sentence) for sentence in advice["words"]),
        *(("then", f"{each['kind']}: {each['plan']['reason']}") for each in _behind(draft)),
    ])  # fmt: skip
    say("Nothing was started.")


def _behind(draft: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for each in draft["on_success"]:
        yield each
        yield from _behind(each)


def _figures(figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    data, mfu = figures["data"], figures["mfu"]
    validation = figures["validation_loss"]
    best = f" (lowest at step {figures['best_step']})" if figures["best_step"] is not None else ""
    out = ", ".join(f"{number} {reason}" for reason, number in data["left_out"].items())
    yield "steps", f"{figures['steps']} ({figures['epochs']:.3g} epochs{', ended early' * figures['stopped_early']})"
    yield "loss", f"{figures['train_loss']:.4f}"
    yield "validation", None if validation is None else f"{validation:.4f}{best}"
    yield "trained", f"{count(figures['trainable'])} of {count(figures['parameters'])} parameters"
    yield "data", f"{data['kept']} samples, {data['tokens']:,} tokens{f' (left out: {out})' if out else ''}"
    yield "speed", f"{figures['tokens_per_second']:,.0f} tokens/s{f', MFU {mfu:.1%}' if mfu is not None else ''}"
    yield "memory", f"{size(figures['peak_memory_bytes'])} at most"
    yield "setting", _setting(figures["setting"])
    yield "relief", ", ".join(_relief(figures["relief"]))


def _relief(relief: Mapping[str, Any]) -> Iterator[str]:
    """What a run did to fit after it ran out of memory."""
    if relief["halvings"]:
        yield f"micro-batch halved {relief['halvings']} times"
    yield from (name.replace("_", " ") for name in ("gradient_checkpointing", "activation_offloading") if relief[name])
    if relief["devices"]:
        yield f"{relief['devices']} devices"


def _setting(setting: Mapping[str, Any]) -> str:
    """A setting in a line."""
    micro, steps = setting["micro_batch_size"], setting["accumulation"]
    devices = f" on {setting['devices']} devices" if setting["devices"] > 1 else ""
    named = {"gradient_checkpointing": "gradient checkpointing", "compiled": "compiled layers"}
    named |= {"activation_offloading": "activations in the host's memory", "packing": "packed rows"}
    more = [word for name, word in named.items() if setting[name]]
    batch = f"batches of {setting['batch_size']} ({micro} × {steps}{devices}), at most {setting['max_length']} tokens"
    return ", ".join([batch, setting["precision"], *more])


def _model(model: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    name = model["id"].partition("@")[0]
    adapter = model["adapter"]
    yield "model", f"{name}@{model['version']} ({model['version_id']})"
    yield "weights", f"{size(model['bytes'])}{' in ' + model['dtype'] if adapter is None else ''}"
    yield "adapter", adapter and f"rank {adapter['rank']}, alpha {adapter['alpha']:g}, beside {model['parent']}"
    yield "aliases", ", ".join(model["aliases"])
    yield "next", f"modelyard chat {name}"


def _cell(values: Mapping[str, float], name: str, form: str) -> str:
    return form.format(values[name]) if name in values else ""
