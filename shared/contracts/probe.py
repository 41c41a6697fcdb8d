"""The `probe` kind: steps of waiting, to see a class of workers from end to end without a model."""

from typing import Literal

from pydantic import Field

from shared.contracts.jobs import Contract


class ProbeSpec(Contract):
    """`steps` waits of `step_seconds` each; zero steps is the no-op whose dispatch the benchmark measures."""

    steps: int = Field(0, ge=0, le=100_000, strict=True)
    step_seconds: float = Field(0.0, ge=0, le=3600)
    checkpoint_every: int = Field(0, ge=0, description="forge only: a checkpoint every so many steps; 0 is none")
    pool: Literal["serve", "forge"] = Field("serve", description="forge runs the steps in an exclusive process")
