"""What a tuning does after it ran out of memory: one thing at a time, in the order of what it costs.

Half the micro-batch costs next to nothing, until it is one; gradient checkpointing a third of the speed; activations
that wait in the host's memory more; and more devices, over which weights and optimizer are sharded, other people's.
None of it changes what is learned: the batch stays as it is.
"""

from dataclasses import dataclass, replace
from typing import Final

from pydantic import ValidationError
from sqlalchemy.orm import Session

from services.jobs import running
from services.jobs.plan import CPU, DEGREES
from services.jobs.types import Claim
from services.tuning import finish_repository
from services.tuning.orders import Material
from services.workers import service as workers
from shared.contracts.jobs import JobError
from shared.contracts.tuning import Relief, Setting, TuningSpec
from shared.contracts.tuning_memory import halved
from shared.queues import gpu_class
from workers.runtime.host import Host
from workers.runtime.work import Finish, JobFailed, Work

OUT_OF_MEMORY: Final = "out_of_memory"
MOST_HALVINGS: Final = 16  # of the largest batch there is
ADVICE: Final = (
    "Nothing is left to try: a shorter max_length, a smaller rank, a smaller model, a class with more memory or more"
    " devices would help."
)


@dataclass(frozen=True)
class Step:
    """What the run does from now on, and how that is said."""

    relief: Relief
    words: str


async def relieve(
    work: Work, host: Host, material: Material, *, setting: Setting | None, failure: JobFailed
) -> tuple[Material, Finish | None]:
    """Decide what a run that has run out of memory does from now on, and say it.

    Returns:
        What the next forge works on, and the end of the attempt where it has to wait for more devices first.

    Raises:
        JobFailed: nothing is left to try.
        Fenced: another attempt owns the job.
    """
    claim = work.claim
    more = await host.transactions.insist(lambda session, _: wider(session, claim, material.tuning))
    step = next_step(material.relief, setting, gpu=claim.gpu_class != CPU, wider=more)
    if step is None:
        raise JobFailed(_hopeless(failure.error, material.relief), permanent=True) from failure
    told = _told(step, at=work.beat().done)

    def write(session: Session) -> None:
        relief = step.relief.model_dump(mode="json")
        running.adjust(session, claim, reason=told, data={"relief": relief})
        finish_repository.relieve(session, claim.job_id, relief)
        if step.relief.devices != material.relief.devices:
            assert step.relief.devices is not None
            running.widen(session, claim, devices=step.relief.devices)

    goes_on = replace(material, relief=step.relief)
    if step.relief.devices != material.relief.devices:
        return goes_on, work.released(write)
    await host.transactions.insist(lambda session, _: write(session))
    return goes_on, None


def next_step(relief: Relief, setting: Setting | None, *, gpu: bool, wider: int | None) -> Step | None:
    """The next thing to try; None when nothing is left. `setting` is what the run had, None if it never came to train.

    `wider` is the next larger number of devices that the job could have.
    """
    if setting is not None:
        if setting.micro_batch_size > 1 and relief.halvings < MOST_HALVINGS:
            half = halved(setting.micro_batch_size, setting.batch_size // setting.devices)
            return Step(relief.model_copy(update={"halvings": relief.halvings + 1}), f"half the micro-batch ({half})")
        if not (setting.gradient_checkpointing or relief.gradient_checkpointing):
            return Step(relief.model_copy(update={"gradient_checkpointing": True}), "gradient checkpointing")
        if gpu and not (setting.activation_offloading or relief.activation_offloading):
            kept = "activations in the host's memory"
            return Step(relief.model_copy(update={"activation_offloading": True}), kept)
    if wider is None or (setting is not None and setting.batch_size % wider):
        return None
    return Step(relief.model_copy(update={"devices": wider}), f"{wider} devices")


def wider(session: Session, claim: Claim, spec: TuningSpec) -> int | None:
    """The next larger number of devices that a live worker of the job's class has, and that can share the run."""
    more = next((degree for degree in DEGREES if degree > claim.devices), None)
    if more is None or claim.gpu_class == CPU or more > gpu_class(claim.gpu_class).devices_per_host:
        return None
    try:
        TuningSpec.model_validate(spec.model_dump() | {"devices": more})
    except ValidationError:  # of what does not go together with several devices
        return None
    return more if workers.widest(session, claim.queue) >= more else None


def _told(step: Step, *, at: int | None) -> str:
    where = f" at step {at:,}" if at else ""
    return f"ran out of memory{where}: goes on with {step.words}"


def _hopeless(error: JobError, relief: Relief) -> JobError:
    """The end of a run that nothing helps."""
    tried = f"It had tried {_tried(relief)}." if relief != Relief() else ""
    said = f"{error.detail.rstrip('.')}." if error.detail else ""
    detail = " ".join(filter(None, [said, tried, ADVICE]))
    return error.model_copy(update={"detail": detail, "retryable": False})


def _tried(relief: Relief) -> str:
    done = [
        f"the micro-batch halved {relief.halvings} times" if relief.halvings else "",
        "gradient checkpointing" if relief.gradient_checkpointing else "",
        "activation offloading" if relief.activation_offloading else "",
        f"{relief.devices} devices" if relief.devices else "",
    ]
    return ", ".join(filter(None, done))
