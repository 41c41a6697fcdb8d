"""What a tuning asks of its devices, how long it takes, and which setting it will choose. Bytes, tokens, seconds.

The arithmetic is `shared.contracts.tuning_memory`'s, which the forge uses too; of the data only the size of its files
is known here, at four bytes a token. A class must hold the least demanding setting that the spec allows; the advice is
of the quickest one that the class chosen allows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from services.catalog.figures import kv_heads, text_config
from services.inference.service import CHARACTERS_PER_TOKEN
from services.jobs.kinds import Advice
from services.jobs.plan import CPU, USABLE, Needs, Plan
from services.tuning import words
from shared.contracts.evaluation import FileSource, Source
from shared.contracts.tuning import Precision, TuningSpec
from shared.contracts.tuning_memory import (
    BATCH,
    LENGTH,
    Fit,
    Room,
    Shape,
    adapter_parameters,
    fit,
    flops_per_token,
)
from shared.db.models import File, Model
from shared.queues import gpu_class

START_S: Final = 20.0  #: until a forge has loaded its libraries and the model, and stored what it made
COMPILE_S: Final = 10.0  #: first step of compiled layers (measured: 5 to 10 s)
LIBRARY_BYTES: Final = 10_000_000  #: of the library text
#: operations a second that a step reaches: 0.54 of the dense bf16 peak, which is what one H200 did (530 TFLOP/s)
REACHED: Final = {
    "h200": 530e12,
    "h100": 530e12,
    "a100-80g": 165e12,
    "a100-40g": 165e12,
    "l40s": 195e12,
    "rtx4090": 90e12,
    "rtx3090": 38e12,
    "jetson-orin": 25e12,
    CPU: 0.1e12,
}
ELSE_REACHED: Final = 100e12  #: of a class that nobody has measured
MERGE_S: Final = 30.0


@dataclass(frozen=True)
class Run:
    """A tuning as planning sees it."""

    spec: TuningSpec
    shape: Shape
    length: int  #: tokens of a row
    tokens: int  #: trained on in all, by a guess

    @property
    def batch_size(self) -> int:
        """Samples of an optimizer step; of little data the forge takes fewer."""
        size = self.spec.training.batch_size
        return size if isinstance(size, int) else BATCH

    @property
    def steps(self) -> int:
        """Optimizer steps, by the same guess where nobody has set them."""
        return self.spec.training.steps or max(1, self.tokens // (self.batch_size * self.length))

    def least(self, *, cpu: bool) -> int:
        """Bytes of a device that the least demanding setting takes; offloading is for a run that would not survive."""
        training = self.spec.training
        if training.activation_offloading == "auto":
            training = training.model_copy(update={"activation_offloading": False})
        modest = replace(self, spec=self.spec.model_copy(update={"training": training}))
        return modest.fit(room=0, cpu=cpu).memory.total

    def fit(self, *, room: int, cpu: bool) -> Fit:
        """How it is cut on devices with so many bytes of room."""
        precision = self.spec.training.precision
        width = 4 if precision is Precision.FP32 or (cpu and precision is Precision.AUTO) else 2
        where = Room(room, devices=self.spec.devices, gpu=not cpu, width=width)
        return fit(
            self.shape,
            self.spec.training,
            batch_size=self.batch_size,
            length=self.length,
            room=where,
            steps=self.steps,
            dropout=bool(self.spec.lora and self.spec.lora.dropout),
        )


def run_of(spec: TuningSpec, base: Model, files: Sequence[File]) -> Run:
    """What is known of a checked spec; `files` are all that it reads."""
    length = spec.training.max_length or min(LENGTH, base.context_length)
    size = {f"file-{file.id.hex}": file.bytes for file in files}
    read = sum(_bytes(source, size) for source in spec.data) // CHARACTERS_PER_TOKEN
    steps, batch = spec.training.steps, spec.training.batch_size
    held = (batch if isinstance(batch, int) else BATCH) * length
    tokens = int(read * spec.training.epochs) if steps is None else steps * min(held, max(1, read))
    return Run(spec, shape_of(spec, base), length, max(1, tokens))


def needs(run: Run) -> Needs:
    """What the least demanding setting asks for: `choose` holds it against all devices together."""
    devices = run.spec.devices
    why = _not_cpu(run.spec)
    mine = Needs(
        weight_bytes=run.least(cpu=False) * devices,
        dtype=None if run.spec.training.precision is Precision.AUTO else run.spec.training.precision.value,
        kv_heads=devices,  # as many degrees as divide it
        tensor_parallel=devices,
        not_cpu=why,
    )
    if why is not None:
        return mine
    on_cpu = Needs(weight_bytes=run.least(cpu=True), tensor_parallel=1)
    return Needs(**{**vars(mine), "cpu": on_cpu})


def merge_needs(base: Model) -> Needs:
    """A merge holds the base once, in its own dtype, and a matrix beside."""
    return Needs(weight_bytes=base.bytes, tensor_parallel=1)


def merge_s(base: Model) -> float:
    """Seconds that a merge takes, by a guess: a gigabyte a second is read, and as much written."""
    return MERGE_S + 2 * base.bytes / 1e9


def advice(run: Run, plan: Plan) -> Advice:
    """Memory, setting, time and cost on the class that was chosen, as `validate_only` tells them."""
    each = gpu_class(plan.gpu_class)
    room = int(each.memory_bytes * USABLE)
    found = run.fit(room=room, cpu=each.name == CPU)
    reached = REACHED.get(each.name, ELSE_REACHED) * run.spec.devices
    work_s = run.tokens * flops_per_token(run.shape, checkpointing=found.load.checkpointing) / reached
    seconds = START_S + work_s + (COMPILE_S if found.load.compiled else 0.0)
    gpu_s = seconds * run.spec.devices
    told: dict[str, Any] = {
        "memory": asdict(found.memory) | {"total": found.memory.total, "room": room},
        "setting": _setting(run, found),
        "trainable_parameters": run.shape.trainable,
        "tokens": run.tokens,
        "steps": run.steps,
        "tokens_per_second": round(run.tokens / max(work_s, 1e-9)),
        "seconds": round(seconds, 1),
        "cost": round(gpu_s / 3600 * plan.price_per_gpu_hour, 6),
        "words": words.advice(run.spec, found, seconds=seconds, gpu_class=each.name),
    }
    return Advice(gpu_s, told)


def shape_of(spec: TuningSpec, base: Model) -> Shape:
    """The base with what is trained of it, by its configuration."""
    config = text_config(base.config)
    matrices = list(_matrices(config))
    trainable = base.parameters
    if spec.lora is not None:
        wanted = spec.lora.target_modules
        meant = [size for name, size in matrices if wanted == "all-linear" or _named(name, wanted)]
        layers = max(1, _number(config, "num_hidden_layers"))
        own = meant or [size for _, size in matrices]  # names that we do not know: as many as all
        trainable = layers * adapter_parameters(own, rank=spec.lora.rank, dora=spec.method.merged)
    return Shape(
        parameters=base.parameters if spec.lora is None else base.parameters + trainable,
        trainable=trainable,
        layers=max(1, _number(config, "num_hidden_layers")),
        hidden=_number(config, "hidden_size"),
        intermediate=_intermediate(config),
        vocabulary=_number(config, "vocab_size"),
    )


def _matrices(config: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, (rows, columns)) of a layer's linear modules, as most decoders have them."""
    hidden, wide = _number(config, "hidden_size"), _intermediate(config)
    heads = _number(config, "num_attention_heads")
    head = _number(config, "head_dim") or (hidden // heads if heads else 0)
    kept = kv_heads(config) * head
    yield from (("q_proj", (heads * head, hidden)), ("k_proj", (kept, hidden)), ("v_proj", (kept, hidden)))
    yield "o_proj", (hidden, heads * head)
    if not _experts(config):  # experts are fused while a checkpoint is loaded: they are no linear modules
        yield from (("gate_proj", (wide, hidden)), ("up_proj", (wide, hidden)), ("down_proj", (hidden, wide)))


def _named(name: str, wanted: Sequence[str]) -> bool:
    return any(each == name or each.endswith(f".{name}") for each in wanted)


def _intermediate(config: Any) -> int:
    active = _number(config, "num_experts_per_tok")
    return active * _number(config, "moe_intermediate_size") or _number(config, "intermediate_size")


def _experts(config: Any) -> int:
    return _number(config, "num_experts") or _number(config, "num_local_experts")


def _number(config: Any, key: str) -> int:
    value = config.get(key)
    return value if type(value) is int and value > 0 else 0


def _not_cpu(spec: TuningSpec) -> str | None:
    if spec.devices > 1:
        return "a host is one device of it"
    if spec.training.precision in (Precision.BF16, Precision.FP16):
        return f"it trains in fp32, not in {spec.training.precision}"
    if spec.training.activation_offloading is True:
        return "activations lie in the host's memory already"
    return "layers are compiled for GPUs" if spec.training.compile is True else None


def _setting(run: Run, found: Fit) -> dict[str, Any]:
    asked = run.spec.training.precision
    known = {4: "fp32", 2: "bf16" if asked is Precision.AUTO else asked.value}
    return {
        "devices": run.spec.devices,
        "batch_size": run.batch_size,
        "micro_batch_size": found.micro_batch_size,
        "accumulation": found.accumulation,
        "max_length": run.length,
        "precision": known[found.load.width],
        "gradient_checkpointing": found.load.checkpointing,
        "compiled": found.load.compiled,
        "activation_offloading": found.load.offloading,
        "packing": run.spec.training.packing,
    }


def _bytes(source: Source, sizes: dict[str, int]) -> int:
    size = sizes[source.file_id] if isinstance(source, FileSource) else LIBRARY_BYTES
    return int(size * source.weight)
