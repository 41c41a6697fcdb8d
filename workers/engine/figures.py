"""What an engine has to do at this moment, whoever serves the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figures:
    """Load: sequences in the batch and before it, KV blocks as in EngineStats, tokens since the start."""

    running: int
    waiting: int
    blocks_total: int
    blocks_free: int
    tokens_generated: int
    adapters_at: Mapping[str, float] = field(default_factory=dict)  #: Unix seconds at which each was last at work


NOTHING = Figures(running=0, waiting=0, blocks_total=0, blocks_free=0, tokens_generated=0)
