"""The model card of a quantized checkpoint: README.md, with the YAML front matter of the Hugging Face Hub.

Keys of the front matter: https://huggingface.co/docs/hub/model-cards. `license` is left out, because it is the
base's to say.
"""

import json
from collections.abc import Iterator, Sequence
from textwrap import dedent

from services.compression import report_words as words
from services.compression.about import Origin, Quantized
from services.compression.reports import evaluation_table
from shared.contracts.compression import SCHEMES, Method, Scheme
from shared.contracts.evaluation import EvaluationFigures
from shared.contracts.forge_orders import SampleFacts

KEPT = 50  #: layers that are named
ABOUT = {
    Scheme.FP16: "weights in 16-bit floats with 5 bits of exponent",
    Scheme.BF16: "weights in 16-bit floats with 8 bits of exponent",
    Scheme.INT8: "weights and activations in 8-bit integers (W8A8), activations scaled a token as they come",
    Scheme.INT8_DYNAMIC: "weights and activations in 8-bit integers (W8A8), activations scaled a token as they come",
    Scheme.W8A16: "weights in 8-bit integers, activations left alone",
    Scheme.W4A16: "weights in 4-bit integers, activations left alone",
    Scheme.FP8_DYNAMIC: "weights and activations in 8-bit floats, activations scaled a token as they come",
    Scheme.FP8: "weights and activations in 8-bit floats, the scales of activations fixed by calibration",
    Scheme.FP8_KV: "weights, activations, and keys and values of the cache in 8-bit floats",
    Scheme.NVFP4: "weights and activations in 4-bit floats, in groups of 16 with 8-bit scales",
}
METHODS = {
    Method.RTN: "rounded to nearest",
    Method.GPTQ: "GPTQ ([arXiv 2210.17323](https://arxiv.org/abs/2210.17323))",
    Method.AWQ: "AWQ ([arXiv 2306.00978](https://arxiv.org/abs/2306.00978))",
}


def model_card(made: Quantized) -> str:
    """README.md: what was made of which model, how, with which texts, what it cost, and how to load it. LF, UTF-8."""
    parts = ["\n".join(_front(made)), f"# {made.name}\n", _summary(made), "\n".join(_recipe(made)), _data(made)]
    if (figures := made.evaluated) is not None:
        parts.append("\n".join(_quality(made, figures)))
    parts += ["\n".join(_sizes(made)), _loading(made)]
    return "\n".join(part for part in parts if part)


def _front(made: Quantized) -> Iterator[str]:
    yield "---"
    yield f"base_model: {json.dumps(base_name(made))}"
    yield "base_model_relation: quantized"
    yield "library_name: transformers"
    yield "pipeline_tag: text-generation"
    yield "tags:"
    for tag in _tags(made):
        yield f"- {json.dumps(tag)}"
    yield "---\n"


def base_name(made: Quantized) -> str:
    """What the base is called on the Hub, or here without its version."""
    repo = made.base_source.get("repo_id") if made.base_source.get("type") == "huggingface" else None
    return repo if isinstance(repo, str) else made.base.rpartition("@")[0] or made.base


def _tags(made: Quantized) -> list[str]:
    facts = SCHEMES[made.scheme]
    if not facts.methods:
        return [str(made.scheme), "modelyard"]
    told = [made.scheme, facts.dtype, f"{facts.bits}-bit", made.method, "compressed-tensors", "llm-compressor", "vllm"]
    return [*dict.fromkeys([*map(str, told), "modelyard"])]


def _summary(made: Quantized) -> str:
    verb = "Quantized from" if SCHEMES[made.scheme].methods else "Cast from"
    revision = made.base_source.get("revision")
    at = f" at revision {_code(revision)}" if base_name(made) == made.base_source.get("repo_id") and revision else ""
    return (
        f"{verb} {_code(made.base)} ({_code(base_name(made))}{at}; sha256 of its manifest {_code(made.base_digest)}) by"
        f" Modelyard, job {_code(made.job_id)}. The license is that of the base model.\n"
    )


def _recipe(made: Quantized) -> Iterator[str]:
    yield "## What was done\n"
    yield f"- Scheme {_code(made.scheme)}: {ABOUT[made.scheme]}"
    if SCHEMES[made.scheme].methods:
        yield f"- Rounding: {METHODS[made.method]}"
        if made.group_size is not None:
            yield f"- Group size: {made.group_size} columns share a scale"
        if made.smoothing_strength:
            yield f"- SmoothQuant ([arXiv 2211.10438](https://arxiv.org/abs/2211.10438)): {made.smoothing_strength:g}"
        yield f"- Layers quantized: {made.result.layers:,}"
        yield f"- Layers left alone: {_listed(made.result.kept)}"
        if made.ignore:
            yield f"- Patterns of layers to leave alone: {_listed(made.ignore)}"
        for each in made.overrides:
            group = f", group size {each.group_size}" if each.group_size else ""
            yield f"- {_code(each.scheme)}{group} for {_listed(each.layers)}"
        yield "- Format: compressed-tensors, written by llm-compressor; `recipe.yaml` repeats it"
    took = f"{words.seconds(made.result.quantize_s)}, peak memory {words.size(made.result.peak_memory_bytes)}"
    yield f"- It took {took}\n"


def _data(made: Quantized) -> str:
    """Which texts were run through the model; nothing where none were."""
    facts = made.result.facts
    if facts is None and not made.data:
        return "## Data\n\nNo texts were needed.\n"
    lines = ["## Data\n"]
    if facts is not None:
        lines.append(f"Calibrated with {_sampled(facts)}.\n")
    if made.calibration_id:
        lines.append(f"Samples and their statistics are those of calibration {_code(made.calibration_id)}.\n")
    lines += _origins(made.data)
    return "\n".join(lines)


def _sampled(facts: SampleFacts) -> str:
    return (
        f"{facts.samples:,} samples of {facts.sequence_length:,} tokens ({facts.tokens:,} without padding), taken from"
        f" {facts.texts:,} texts; sha256 of the token ids {_code(facts.sha256)}"
    )


def _origins(data: Sequence[Origin]) -> list[str]:
    several = len(data) > 1
    told = [
        f"- {_code(each.name)}: sha256 {_code(each.sha256)}{f', weight {each.weight:g}' if several else ''}"
        for each in data
    ]
    return [*told, ""] if told else []


def _quality(made: Quantized, figures: EvaluationFigures) -> Iterator[str]:
    yield "## What it cost, and what it gained\n"
    yield evaluation_table(figures, served=False)
    yield "How fast engines run it is measured with these files, this card among them: the job's evaluation says it.\n"
    for task in figures.tasks:
        seen = f"{task.samples:,} samples, {task.tokens:,} tokens"
        yield f"- Task {_code(task.name)}: {seen}, data sha256 {_code(task.sha256)}"
    where = f"Computed on {_plain(figures.device)}."
    if made.gate is not None and made.verdict is not None:
        where += f" The gate ({'; '.join(words.limits(made.gate))}) was {'' if made.verdict.passed else 'not '}passed."
    yield f"\n{where}\n"


def _sizes(made: Quantized) -> Iterator[str]:
    figures = made.evaluated
    if figures is None or figures.baseline is None:
        yield f"## Size\n\n{words.size(made.result.bytes)} ({made.result.bytes:,} bytes).\n"
        return
    before, after = figures.baseline.bytes, figures.candidate.bytes
    yield f"## Size\n\n{words.size(after)} ({after:,} bytes) instead of {words.size(before)} ({before:,} bytes).\n"


def _loading(made: Quantized) -> str:
    needs = "transformers compressed-tensors" if SCHEMES[made.scheme].methods else "transformers"
    return dedent(f"""\
        ## How to load it

        With transformers (`pip install torch {needs}`), from the folder of this file:

        ```python
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(".")
        model = AutoModelForCausalLM.from_pretrained(".", dtype="auto")
        inputs = tokenizer("Once upon a time", return_tensors="pt")
        print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))
        ```

        With vLLM, on a GPU for which it has kernels of this scheme:

        ```bash
        vllm serve . --served-model-name {made.name}
        ```

        Through Modelyard, where it is registered:

        ```bash
        modelyard chat {made.name} "Hello"
        ```
        """)


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    rest = len(names) - KEPT
    return ", ".join(map(_code, names[:KEPT])) + (f" and {rest:,} more" if rest > 0 else "")


def _code(told: object) -> str:
    """Text that Markdown does not read: in backquotes, on one line."""
    plain = " ".join(str(told).replace("`", "'").split())
    return f"`{plain}`"


def _plain(told: str) -> str:
    """A sentence without Markdown or HTML of its own."""
    return "".join(f"\\{sign}" if sign in "\\<>`*_[]" else sign for sign in " ".join(told.split()))
