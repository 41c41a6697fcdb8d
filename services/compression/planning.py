"""What jobs of the three kinds ask of their devices, and about how long they take. Bytes, tokens and seconds.

A forge loads every model whole: several devices share calibration samples, but do not hold a larger model. Each needs

    model = parameters × 2 bytes (4 when the checkpoint is kept in fp32: it stays as it is)
    judge = models + 4 × sequence × vocabulary × 4 bytes
            (logits and their log-probabilities, of a candidate and its baseline, in fp32)
    work  = model + samples' hidden states of one layer + 2 × width² × 4 bytes
            (samples × length × hidden × 2 bytes, beside the largest Hessian of GPTQ and its inverse)

and the larger of the two where both are done one after the other. Quantized weights are unpacked while they are
judged: a candidate counts as its original does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from services.catalog.figures import text_config
from services.jobs.plan import Needs
from shared.contracts.compression import SCHEMES, Method, Sampling, Scheme
from shared.contracts.evaluation import ChoiceTask, GenerationTask, Task, TextTask
from shared.db.models import Model
from shared.queues import gpu_classes

START_S: Final = 20.0  #: until a forge has loaded its libraries
#: GPTQ of Llama 3 8B with 512 × 2048 tokens on one GPU takes 745 s (llm-compressor's documentation, 0.14)
GPTQ_S: Final = 745 / (8.03e9 * 512 * 2048)  #: a parameter and a token
FLOPS: Final = 100e12  #: a second that a forward pass reaches on such a device
ANSWER_S: Final = 0.5  #: a generated answer, or a choice: mostly waiting for memory
TASK_TOKENS: Final = 512  #: of a choice or an answer, while it is judged
VOCABULARY: Final = 128_256  #: where a configuration does not say


def for_evaluation(models: Sequence[Model], tasks: Sequence[Task]) -> Needs:
    """What judging models needs, beside each other; any class that holds them will do."""
    return _one_device(sum(map(_weights, models)) + _logits(models[0], tasks))


def for_calibration(model: Model, sampling: Sampling) -> Needs:
    """What watching a model's layers needs."""
    return _one_device(_weights(model) + _hidden(model, sampling))


def for_quantization(
    model: Model, schemes: Sequence[Scheme], *, sampling: Sampling | None, tasks: Sequence[Task], devices: int = 1
) -> Needs:
    """What quantizing a model and judging the result needs; the class must serve all of `schemes`.

    Class cpu unpacks most of them, on its one device: it is none for several.
    """
    judged = 2 * _weights(model) + _logits(model, tasks) if tasks else 0
    made = _weights(model) + (_hidden(model, sampling) if sampling else 0)
    alone = replace(_one_device(max(judged, made)), dtype=_rarest(SCHEMES[scheme].dtype for scheme in schemes))
    # `fit` holds the sum against all devices, and takes degrees that divide the heads
    needs = replace(alone, weight_bytes=alone.weight_bytes * devices, kv_heads=devices, tensor_parallel=devices)
    unpacked = devices == 1 and all(SCHEMES[scheme].everywhere for scheme in schemes)
    return replace(needs, cpu=replace(alone, dtype=None)) if unpacked else needs


def evaluation_s(models: Sequence[Model], tasks: Sequence[Task]) -> float:
    """Seconds that judging takes, by a guess."""
    return (
        START_S
        + sum(map(_answers, tasks)) * ANSWER_S * len(models)
        + sum(2 * model.parameters * _tokens(task) / FLOPS for model in models for task in tasks)
    )


def calibration_s(model: Model, sampling: Sampling, schemes: Sequence[Scheme]) -> float:
    """Seconds that watching layers takes, by a guess: a pass, and one more for each scheme."""
    return START_S + 2 * model.parameters * _sampled(sampling) * (1 + len(schemes)) / FLOPS


def quantization_s(model: Model, method: Method, *, sampling: Sampling | None, tasks: Sequence[Task]) -> float:
    """Seconds that quantizing and judging take, by a guess."""
    tokens = _sampled(sampling) if sampling else 0
    each = 2 * 2 / FLOPS if method is Method.RTN else GPTQ_S
    judged = evaluation_s([model, model], tasks) if tasks else 0.0
    return START_S + model.parameters * tokens * each + judged


def _one_device(size: int) -> Needs:
    return Needs(weight_bytes=size, tensor_parallel=1)


def _rarest(dtypes: Iterable[str]) -> str:
    """The dtype that the fewest classes list: a class that serves it serves the others of one checkpoint too."""
    return min(dtypes, key=lambda dtype: sum(dtype in each.dtypes for each in gpu_classes().values()))


def _weights(model: Model) -> int:
    return model.parameters * (4 if model.dtype == "fp32" else 2)


def _logits(model: Model, tasks: Sequence[Task]) -> int:
    longest = max((_sequence(task) for task in tasks), default=0)
    return 4 * longest * (_number(model, "vocab_size") or VOCABULARY) * 4


def _hidden(model: Model, sampling: Sampling) -> int:
    hidden = _number(model, "hidden_size")
    width = max(hidden, _number(model, "intermediate_size"))
    return _sampled(sampling) * hidden * 2 + 2 * width**2 * 4


def _sampled(sampling: Sampling) -> int:
    assert sampling.sequence_length is not None
    return sampling.samples * sampling.sequence_length


def _sequence(task: Task) -> int:
    return (task.sequence_length or TASK_TOKENS) if isinstance(task, TextTask) else TASK_TOKENS


def _tokens(task: Task) -> int:
    return task.samples * _sequence(task)


def _answers(task: Task) -> int:
    return task.samples if isinstance(task, ChoiceTask | GenerationTask) else 0


def _number(model: Model, key: str) -> int:
    value: Any = text_config(model.config).get(key)
    return value if type(value) is int and value > 0 else 0
