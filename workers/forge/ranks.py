"""Which of a forge's processes this one is. torchrun starts one a device; without it there is one."""

import os


def under_torchrun() -> bool:
    """Whether torchrun's agent is our parent."""
    return "RANK" in os.environ


def rank() -> int:
    """Our number among the forge's processes; 0 speaks and writes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes the forge has."""
    return int(os.environ.get("WORLD_SIZE", "1"))
