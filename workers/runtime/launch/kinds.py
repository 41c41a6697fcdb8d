"""Which kinds of engine there are, and which one a model gets."""

from typing import Final

from shared.contracts.jobs import Tier
from shared.errors import EngineUnavailable
from shared.settings import Settings
from workers.runtime.launch.command import CommandLine
from workers.runtime.launch.order import Launcher
from workers.runtime.launch.transformers import Transformers
from workers.runtime.launch.vllm import Vllm
from workers.runtime.slots import CPU

AUTO: Final = "auto"


def choose(wanted: str | None, settings: Settings) -> str:
    """The kind of a model that asks for `wanted`, or for none: then the setting `engine` decides."""
    kind = wanted or settings.engine
    if kind != AUTO:
        return kind
    return Transformers.kind if settings.gpu_class == CPU else Vllm.kind


def launcher(kind: str, settings: Settings) -> Launcher:
    """Who starts engines of this kind.

    Raises:
        EngineUnavailable: this host has no such kind; the message says what to install or to set.
    """
    if kind == Transformers.kind:
        return Transformers()
    if kind == Vllm.kind:
        return Vllm.of(settings)
    if kind in settings.engine_commands:
        return CommandLine(kind, settings)
    known = ", ".join([Transformers.kind, Vllm.kind, *sorted(settings.engine_commands)])
    msg = f"This host knows no engine `{kind}` (only {known}): name its command line in MODELYARD_ENGINE_COMMANDS."
    raise EngineUnavailable(msg)


def extras(launcher: Launcher, tier: Tier) -> dict[str, int]:
    """What a request of this tier carries besides OpenAI's body: vLLM serves a lower `priority` first."""
    return {"priority": tier.rank} if launcher.priority else {}
