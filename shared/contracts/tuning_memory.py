"""What a training step holds in memory and computes: plain arithmetic, for whoever plans a run and whoever runs it.

With N parameters of which T are trained, L layers of width h and feed-forward width m, vocabulary V, in numbers of w
bytes (2 in bf16 and fp16, 4 in fp32), over D devices, with t tokens on a device at once (micro-batch × length):

    weights     = (N - T) × w / D, and a layer and the next one whole where D > 1 (FSDP2 gathers them)
    trained     = T × 16 / D           (weight, gradient and Adam's two moments in fp32; of weights in 16 bits too:
                                       weight and gradient in them, and the weight once more in fp32)
    activations = t × L × w/2 × (17h + 8m)        as PyTorch keeps them; (13h + 6m) where layers are compiled
                  t × L × w × h                   with gradient checkpointing, and one layer's that is computed again
                  three layers' of these          where they wait in the host's memory
    head        = min(t, 8192) × V × 2w           tiles of logits and their gradient (`workers.forge.tuning.quick_head`)
                  t × V × 12                      where all weights are trained on smoothed labels: all logits, in fp32
    dropout     = t × L × (w + 1) × (6h + m), of adapters alone: dropped inputs and their masks; not checkpointed

Of Llama 3 8B, rank 16 on all linear layers, bf16, 4 × 2048 tokens that makes 64.5 GiB (measured: 65.0), compiled
53.5 (53.2), compiled and checkpointed 21.5 (21.7), and compiled 8 × 2048 87.5 (87.5): one H200, peak of torch's
allocator.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from shared.contracts.tuning import Choice, Relief, Training

TRAINED_BYTES: Final = 16
LOGIT_BYTES: Final = 12  #: of one, where all of them are there at once
HEAD_TOKENS: Final = 8192  #: whose logits are there at once
PLAIN: Final = (17, 8)  #: of h and m: bytes of a token in a layer at w = 2
COMPILED: Final = (13, 6)
OFFLOADED_LAYERS: Final = 3  #: on the device at once: the one in work, one that comes and one that goes
FILLED: Final = 1024  #: tokens in work at once below which a device waits more than it computes
COMPILE_STEPS: Final = 64  #: compiling costs 5 to 10 s, and gains a quarter of a step
BATCH: Final = 16  #: samples of an optimizer step where nobody says
LENGTH: Final = 2048  #: tokens of a sample at most, where nobody says


@dataclass(frozen=True)
class Shape:
    """A model as far as memory and time are concerned."""

    parameters: int
    trainable: int
    layers: int
    hidden: int
    intermediate: int  #: of all experts that see one token
    vocabulary: int

    @property
    def whole(self) -> bool:
        """Whether all of its weights are trained."""
        return self.trainable >= self.parameters


@dataclass(frozen=True)
class Load:
    """What one device has in work at once."""

    tokens: int  #: micro-batch × length
    width: int  #: bytes of a number: 2 or 4
    devices: int = 1
    checkpointing: bool = False
    compiled: bool = False
    offloading: bool = False
    dropout: bool = False  #: of an adapter
    all_logits: bool = False  #: at once


@dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    weights: int
    trained: int  #: with gradients and the optimizer's state
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.trained + self.activations + self.logits


@dataclass(frozen=True)
class Fit:
    """How a step is cut so that it fits."""

    micro_batch_size: int
    accumulation: int
    load: Load
    memory: Memory  #: by the estimate
    room: int | None  #: bytes of one device; None: nobody knows

    @property
    def fits(self) -> bool:
        """Whether the estimate is within the room."""
        return self.room is None or self.memory.total <= self.room


@dataclass(frozen=True)
class Room:
    """Where a run is to fit."""

    bytes: int | None  #: of one device; None: nobody knows, and whatever is asked is taken to fit
    devices: int
    gpu: bool
    width: int  #: bytes of a number that is computed with


def memory(shape: Shape, load: Load) -> Memory:
    """What a step takes, in bytes of one device (formulas: see above)."""
    frozen = (shape.parameters - shape.trainable) * load.width // load.devices
    gathered = 2 * shape.parameters // max(1, shape.layers) * load.width if load.devices > 1 else 0
    tile = min(load.tokens, HEAD_TOKENS) * 2 * load.width
    head = shape.vocabulary * (load.tokens * LOGIT_BYTES if load.all_logits else tile)
    return Memory(
        weights=frozen + gathered,
        trained=shape.trainable * TRAINED_BYTES // load.devices,
        activations=_activations(shape, load, head=head),
        logits=head,
    )


def _activations(shape: Shape, load: Load, *, head: int) -> int:
    """Bytes, at the point where the step holds the most."""
    of_hidden, of_intermediate = COMPILED if load.compiled else PLAIN
    layer = load.width * (of_hidden * shape.hidden + of_intermediate * shape.intermediate) // 2
    if load.dropout:
        layer += (load.width + 1) * (6 * shape.hidden + shape.intermediate)
    kept = load.width * shape.hidden if load.checkpointing else layer
    layers = min(OFFLOADED_LAYERS, shape.layers) if load.offloading else shape.layers
    # A checkpointed layer is computed again when the head's are gone: the larger of the two counts.
    again = max(0, load.tokens * layer - head) if load.checkpointing else 0
    return load.tokens * layers * kept + again


def adapter_parameters(matrices: Iterable[tuple[int, int]], *, rank: int, dora: bool = False) -> int:
    """Parameters of an adapter on matrices of (rows, columns); DoRA has a magnitude for each row beside."""
    return sum(rank * (rows + columns) + (rows if dora else 0) for rows, columns in matrices)


def flops_per_token(shape: Shape, *, checkpointing: bool) -> int:
    """Operations of a step for each token: of a weight 2 forwards, 2 for inputs' gradients, 2 for its own if trained.

    Checkpointing computes forwards twice (arXiv 2204.02311 counts the rest alike; attention's own are left out).
    """
    return (4 + (2 if checkpointing else 0)) * shape.parameters + 2 * shape.trainable


def fit(shape: Shape, training: Training, *, batch_size: int, length: int, room: Room, steps: int | None = None,
        dropout: bool = False) -> Fit:  # fmt: skip
    """The quickest setting that the memory allows: the largest micro-batch without checkpointing, else with it.

    What `training` fixes stays as it is. Where nothing fits, the smallest is answered, and `fits` is false.
    """
    compiled = _chosen(training.compile, auto=room.gpu and (steps is None or steps >= COMPILE_STEPS))
    mine = batch_size // room.devices
    found = None
    for checkpointing, offloading in _savings(training, gpu=room.gpu):
        for micro in _micro_batches(training, mine):
            load = Load(
                tokens=micro * length,
                width=room.width,
                devices=room.devices,
                checkpointing=checkpointing,
                compiled=compiled,
                offloading=offloading,
                dropout=dropout,
                all_logits=training.label_smoothing > 0 and shape.whole,
            )
            found = Fit(micro, mine // micro, load, memory(shape, load), room.bytes)
            busy = load.tokens >= min(FILLED, mine * length) or training.micro_batch_size != "auto"
            if found.fits and (busy or checkpointing or training.gradient_checkpointing != "auto"):
                return found
    assert found is not None  # there is a micro-batch of one
    return found


def relieved(found: Fit, relief: Relief, *, shape: Shape) -> Fit:
    """What a run that has run out of memory does instead: `relief` on top of what it began with."""
    micro, mine = found.micro_batch_size, found.micro_batch_size * found.accumulation
    for _ in range(relief.halvings):
        micro = halved(micro, mine)
    load = replace(
        found.load,
        tokens=found.load.tokens // found.micro_batch_size * micro,
        checkpointing=found.load.checkpointing or relief.gradient_checkpointing,
        offloading=found.load.offloading or relief.activation_offloading,
    )
    return Fit(micro, mine // micro, load, memory(shape, load), found.room)


def halved(micro_batch_size: int, batch_size: int) -> int:
    """Half a micro-batch, or the next smaller one that divides a device's part of the batch; 1 stays 1."""
    return next(n for n in range(max(1, micro_batch_size // 2), 0, -1) if batch_size % n == 0)


def _chosen(choice: Choice, *, auto: bool) -> bool:
    return auto if isinstance(choice, str) else choice


def _savings(training: Training, *, gpu: bool) -> Iterator[tuple[bool, bool]]:
    """(checkpointing, offloading) in the order of what they cost in time."""
    asked, offload = training.gradient_checkpointing, _chosen(training.activation_offloading, auto=False)
    if asked is not True:
        yield False, offload
    if asked is not False:
        yield True, offload
    if gpu and training.activation_offloading == "auto":
        yield asked is not False, True


def _micro_batches(training: Training, batch_size: int) -> Iterator[int]:
    """Micro-batches to try, the largest first."""
    fixed = training.micro_batch_size
    if isinstance(fixed, int):
        yield fixed
    else:
        yield from (n for n in range(batch_size, 0, -1) if batch_size % n == 0)
