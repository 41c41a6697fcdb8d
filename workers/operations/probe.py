"""The `probe` kind: steps of waiting, on the runner's loop or in a forge process."""

import asyncio

from shared.contracts.jobs import Pool
from shared.contracts.probe import ProbeSpec
from workers.runtime.forge import run_forge
from workers.runtime.host import Host
from workers.runtime.work import Finish, Work


async def run(work: Work, host: Host) -> Finish:
    """Wait `steps` times. Without steps there is nothing to do: what the dispatch benchmark measures.

    Raises:
        JobFailed: the forge died.
    """
    if work.pool is Pool.FORGE:
        return await run_forge(work, host, module="workers.forge.probe")
    spec = ProbeSpec.model_validate(work.claim.spec)
    for step in range(spec.steps):
        await asyncio.sleep(spec.step_seconds)
        work.progress(step + 1, spec.steps, "steps")
    return work.succeeded()
