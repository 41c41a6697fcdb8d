"""Where a job can run: the GPU class, how many devices, and why."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from services.workers import service as workers
from shared.contracts.jobs import Pool
from shared.errors import Unplaceable
from shared.queues import AUTO, GIB, GpuClass, gpu_classes, queue_name
from shared.queues import gpu_class as known_class
from shared.recent import Recent

CPU = "cpu"  #: the class whose ranks share one device: its host
DEGREES = (1, 2, 4, 8)  #: of tensor parallelism that engines are run with
#: share of a device that weights and KV cache may fill; the rest is activations, CUDA graphs and the driver.
#: vLLM's own default is 0.9.
USABLE = 0.9
LIVE_FOR_S = 1.0  #: how long a process believes what it read about live workers

_live: Recent[frozenset[str]] = Recent(LIVE_FOR_S)


@dataclass(frozen=True)
class Needs:
    """What a job asks of its devices. Bytes and tokens; zeros mean that any class will do."""

    weight_bytes: int = 0
    kv_bytes_per_token: int = 0
    tokens: int = 0  #: held in the KV cache at once
    dtype: str | None = None  #: bf16, fp16, fp32, int8, fp8 …; None = any
    kv_heads: int = 1  #: tensor parallelism must divide it
    tensor_parallel: int | None = None  #: the degree that the model's owner chose; None = the fewest devices
    cpu: "Needs | None" = None  #: what it asks of class cpu, where engines compute in fp32; None = the same
    not_cpu: str | None = None  #: why class cpu is none for it; None = it may be

    def on(self, each: GpuClass) -> "Needs":
        """What is asked of one class."""
        return self.cpu if self.cpu is not None and each.name == CPU else self

    @property
    def memory_bytes(self) -> int:
        """Weights and KV cache together, on however many devices."""
        return self.weight_bytes + self.kv_bytes_per_token * self.tokens


@dataclass(frozen=True)
class Plan:
    """The choice, made once at submit."""

    gpu_class: str
    queue: str
    devices: int
    tensor_parallel: int
    memory_bytes: int
    price_per_gpu_hour: float
    reason: str


def choose(session: Session, *, pool: Pool, gpu_class: str, needs: Needs) -> Plan:
    """The cheapest class that fits, among those with a live worker, else of all (design §4).

    One device is enough wherever the model fits one: two copies of a one-device engine serve 2.0×, one engine
    over two devices 1.70× (measured on H200s), so tensor parallelism is for what fits no single device.

    Raises:
        UnknownClass: no class is called `gpu_class` (`param="gpu_class"`).
        Unplaceable: the class, or with `auto` every class, is too small or cannot run the dtype.
    """
    live = _live.get(session, None, lambda: workers.live_queues(session))
    if gpu_class != AUTO:
        named = known_class(gpu_class)
        devices = fit(named, needs)
        if devices is None:
            own = needs.on(named)
            raise Unplaceable(f"{_asks(own)}; {_offers(named, own)}", param="gpu_class")
        waits = "" if queue_name(named.name, pool) in live else "; no worker of it is live: the job waits for one"
        return _plan(named, pool, devices=devices, needs=needs, why=f"as asked{waits}")
    table = gpu_classes().values()
    if found := cheapest((each for each in table if queue_name(each.name, pool) in live), needs):
        why = "the cheapest that fits among the classes with a live worker"
    elif found := cheapest(table, needs):
        why = "the cheapest that fits; no worker of a class that fits is live: the job waits for one of this class"
    else:
        raise Unplaceable(f"{_asks(needs)}; {_best_offer(table, needs)}", param="gpu_class")
    return _plan(found[0], pool, devices=found[1], needs=needs, why=why)


def fit(each: GpuClass, needs: Needs) -> int | None:
    """The fewest devices of one host that hold `needs`; None when no host of the class does."""
    if needs.not_cpu and each.name == CPU:
        return None
    needs = needs.on(each)
    if needs.dtype is not None and needs.dtype not in each.dtypes:
        return None
    room = each.memory_bytes * USABLE
    return next((n for n in degrees(each, needs) if needs.memory_bytes <= room * n), None)


def degrees(each: GpuClass, needs: Needs) -> list[int]:
    """Numbers of one host's devices that split the model's KV heads evenly; the one that was chosen, if one was."""
    if each.name == CPU:
        return [1]
    asked = DEGREES if needs.tensor_parallel is None else (needs.tensor_parallel,)
    return [n for n in asked if n <= each.devices_per_host and needs.kv_heads % n == 0]


def cheapest(table: Iterable[GpuClass], needs: Needs) -> tuple[GpuClass, int] | None:
    """The class whose devices for `needs` cost least an hour, and how many; ties go to fewer devices."""
    fitting = [(each, devices) for each in table if (devices := fit(each, needs)) is not None]
    return min(fitting, key=lambda one: (one[0].price_per_gpu_hour * one[1], one[1]), default=None)


def _plan(each: GpuClass, pool: Pool, *, devices: int, needs: Needs, why: str) -> Plan:
    needs = needs.on(each)
    what = f"{_asks(needs)}; {each.name} × {devices} has {_room(each, devices)}: " if needs.memory_bytes else ""
    return Plan(
        gpu_class=each.name,
        queue=queue_name(each.name, pool),
        devices=devices,
        tensor_parallel=needs.tensor_parallel or devices,
        memory_bytes=needs.memory_bytes,
        price_per_gpu_hour=each.price_per_gpu_hour,
        reason=f"{what}{why}",
    )


def _asks(needs: Needs) -> str:
    return f"the job needs {_size(needs.memory_bytes)}" + (f" at {needs.dtype}" if needs.dtype else "")


def _offers(each: GpuClass, needs: Needs) -> str:
    if needs.not_cpu and each.name == CPU:
        return f"GPU class {CPU} is none for it: {needs.not_cpu}"
    if needs.dtype is not None and needs.dtype not in each.dtypes:
        return f"GPU class {each.name} cannot run {needs.dtype} (it runs {', '.join(each.dtypes)})"
    if not (able := degrees(each, needs)):
        return (
            f"GPU class {each.name} has {each.devices_per_host} devices a host, for {needs.kv_heads} KV heads:"
            f" tensor_parallel {needs.tensor_parallel} cannot be run on it"
        )
    return f"GPU class {each.name} × {able[-1]} has {_room(each, able[-1])}"


def _best_offer(table: Iterable[GpuClass], needs: Needs) -> str:
    able = [each for each in table if needs.dtype is None or needs.dtype in each.dtypes]
    able = [each for each in able if not (needs.not_cpu and each.name == CPU)]
    if not able:
        return f"no configured GPU class can run {needs.dtype}"
    split = [each for each in able if degrees(each, needs)]
    if not split:
        return f"no configured GPU class has {needs.tensor_parallel} devices a host"
    largest = max(split, key=lambda each: each.memory_bytes * degrees(each, needs)[-1])
    devices = degrees(largest, needs)[-1]
    return f"the largest configured GPU class, {largest.name} × {devices}, has {_room(largest, devices)}"


def _room(each: GpuClass, devices: int) -> str:
    """What `fit` compares with: 505 GiB of 562."""
    whole = each.memory_bytes * devices
    return f"{_size(whole * USABLE)} of {_size(whole)} for it"


def _size(count: float) -> str:
    """Three figures at most, in the unit that suits: 9.2 MiB, 14.4 GiB, 1123 GiB."""
    unit, size = ("GiB", count / GIB) if count >= GIB else ("MiB", count / 2**20)
    return f"{size:.0f} {unit}" if size >= 100 else f"{size:.3g} {unit}"
