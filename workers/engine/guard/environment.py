"""What the guard reads of its own environment: nothing for itself."""

import os
from collections.abc import Mapping


def of_server(changes: Mapping[str, str | None]) -> dict[str, str]:
    """The server's environment: ours with these changes; None removes a variable."""
    merged = {**os.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def visible_devices() -> tuple[int, ...] | None:
    """The GPUs that the yard lets the server see; None: all of them (or they go by other names than numbers)."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return tuple(map(int, named)) if all(name.strip().isdigit() for name in named) else None
