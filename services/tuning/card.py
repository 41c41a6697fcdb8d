"""The model card of what was tuned or merged: README.md, with the YAML front matter of the Hugging Face Hub.

Keys of the front matter: https://huggingface.co/docs/hub/model-cards. `license` is left out, because it is the
base's to say.
"""

import json
from collections.abc import Iterator, Sequence
from textwrap import dedent

from services.compression import report_words as words
from services.compression.about import Origin
from services.tuning import described, orders
from services.tuning.orders import Material
from services.tuning.reports import words_of
from shared.contracts.tuning import TuningFigures
from shared.contracts.tuning_orders import MergeResult
from shared.db.models import Model

ADAPTER, WHOLE = ("adapter", "peft"), ("finetune", "transformers")  #: relation to the base, and library


def tuned_card(material: Material, figures: TuningFigures) -> str:
    """README.md: what was trained on which base, how, with which data, what came of it, how to load it. LF, UTF-8."""
    spec, base, name = material.tuning, material.row, material.name
    tags = [str(spec.method), "trl", "sft", *(["peft"] if spec.method.adapts else []), "modelyard"]
    about = ADAPTER if material.adapts else WHOLE
    parts = [
        _front(base, about, tags=tags),
        f"# {name}\n",
        f"Tuned from {_base(base)} {_by(material)}\n",
        "\n".join(_training(material, figures)),
        "\n".join(_result(figures)),
        "\n".join(_data(material, figures)),
        _loading_adapter(material) if material.adapts else _loading(name),
    ]
    return "\n".join(parts)


def merged_card(material: Material, result: MergeResult) -> str:
    """README.md of an adapter that was added to its base."""
    adapter = material.adapter
    assert adapter is not None
    origin = adapter.source.get("job_id")
    trained = f", which job {_code(origin)} has trained" if adapter.source.get("type") == "tuning" and origin else ""
    named = _code(f"{adapter.name}@{adapter.version}")
    parts = [
        _front(material.row, WHOLE, tags=["merge", "peft", "modelyard"]),
        f"# {material.name}\n",
        f"The adapter {named}{trained}, added to {_base(material.row)} {_by(material)}\n",
        f"- Matrices that it changes: {result.layers:,}",
        f"- Adapter: sha256 of its manifest {_code(adapter.digest)}",
        f"- Size: {words.size(result.bytes)} ({result.bytes:,} bytes)\n",
        _loading(material.name),
    ]
    return "\n".join(parts)


def _front(base: Model, about: tuple[str, str], *, tags: Sequence[str]) -> str:
    relation, library = about
    lines = [
        "---",
        f"base_model: {json.dumps(_hub_name(base))}",
        f"base_model_relation: {relation}",
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in tags),
        "---\n",
    ]
    return "\n".join(lines)


def _hub_name(base: Model) -> str:
    """What the base is called on the Hub, or here without its version."""
    repo = base.source.get("repo_id") if base.source.get("type") == "huggingface" else None
    return repo if isinstance(repo, str) else base.name


def _base(base: Model) -> str:
    revision = base.source.get("revision") if base.source.get("type") == "huggingface" else None
    at = f" at revision {_code(revision)}" if revision else ""
    return f"{_code(f'{base.name}@{base.version}')} ({_code(_hub_name(base))}{at}; manifest {_code(base.digest)})"


def _by(material: Material) -> str:
    return f"by Modelyard, job {_code(material.job_id)}. The license is that of the base model."


def _training(material: Material, figures: TuningFigures) -> Iterator[str]:
    spec = material.tuning
    yield "## What was done\n"
    yield f"- Method: {_plain(described.method(spec))}"
    for label, told in described.hyperparameters(spec, figures.setting):
        yield f"- {_plain(label)}: {_plain(told)}"
    yield f"- Precision: {figures.setting.precision}"
    for told in described.relieved(figures.relief):
        yield f"- Memory had run out: {told}"
    yield ""


def _result(figures: TuningFigures) -> Iterator[str]:
    yield "## What came of it\n"
    yield f"- Steps: {figures.steps:,}, {words.figure(figures.epochs, 3)} epochs"
    yield f"- Parameters trained: {figures.trainable:,} of {figures.parameters:,}"
    yield f"- Training loss: {words.figure(figures.train_loss)}"
    if figures.validation_loss is not None:
        at = f", at step {figures.best_step:,}" if figures.best_step is not None else ""
        yield f"- Validation loss, the lowest: {words.figure(figures.validation_loss)}{at}"
    yield f"- Tokens seen: {figures.tokens:,}; the loss is of {figures.trained_tokens:,}"
    yield f"- It took {words.seconds(figures.seconds)}, peak memory {words.size(figures.peak_memory_bytes)}\n"


def _data(material: Material, figures: TuningFigures) -> Iterator[str]:
    facts = figures.data
    yield "## Data\n"
    yield (
        f"{facts.kept:,} of {facts.read:,} samples ({words_of(facts.kinds)}; left out: {words_of(facts.left_out)}),"
        f" {facts.tokens:,} tokens; sha256 of token ids and loss mask {_code(facts.sha256)}.\n"
    )
    yield from _origins(orders.origins(material))
    if looked_at := orders.validation_origins(material):
        yield "\nLooked at, and not trained on:\n"
        yield from _origins(looked_at)
    yield ""


def _origins(data: Sequence[Origin]) -> Iterator[str]:
    for each in data:
        weight = f", weight {each.weight:g}" if len(data) > 1 else ""
        yield f"- {_code(each.name)}: sha256 {_code(each.sha256)}{weight}"


def _loading_adapter(material: Material) -> str:
    base = _hub_name(material.row)
    rank = material.tuning.lora.rank if material.tuning.lora else 16
    return dedent(f"""\
        ## How to load it

        With transformers and PEFT (`pip install torch transformers peft`), from the folder of this file:

        ```python
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        base = AutoModelForCausalLM.from_pretrained({base!r}, dtype="auto")
        model = PeftModel.from_pretrained(base, ".")
        tokenizer = AutoTokenizer.from_pretrained({base!r})
        ```

        With vLLM:

        ```bash
        vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {material.name}=.
        ```
        """) + _yard(material.name)


def _loading(name: str) -> str:
    return dedent(f"""\
        ## How to load it

        With transformers (`pip install torch transformers`), from the folder of this file:

        ```python
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(".")
        model = AutoModelForCausalLM.from_pretrained(".", dtype="auto")
        ```

        With vLLM:

        ```bash
        vllm serve . --served-model-name {name}
        ```
        """) + _yard(name)


def _yard(name: str) -> str:
    return dedent(f"""
        Through Modelyard, where it is registered:

        ```bash
        modelyard chat {name} "Hello"
        ```
        """)


def _code(told: object) -> str:
    """Text that Markdown does not read: in backquotes, on one line."""
    plain = " ".join(str(told).replace("`", "'").split())
    return f"`{plain}`"


def _plain(told: str) -> str:
    """A sentence without Markdown or HTML of its own."""
    return "".join(f"\\{sign}" if sign in "\\<>`*_[]" else sign for sign in " ".join(told.split()))
