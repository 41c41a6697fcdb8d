"""Settings for code that reads `shared.settings.settings()`: of this process for a while, or of a child."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import SecretStr

from shared import broker, crypto, queues
from shared import settings as module
from shared.settings import PREFIX, Settings

CACHES = (module.settings, crypto.keyring, broker._publisher, queues.gpu_classes)


def environment(settings: Settings, **overrides: object) -> dict[str, str]:
    """The MODELYARD_ variables that make a process read these settings."""
    values = {name: getattr(settings, name) for name in settings.model_fields_set} | overrides
    return {f"{PREFIX}{name.upper()}": _spelled(value) for name, value in values.items()}


@contextmanager
def configured(settings: Settings, **overrides: object) -> Iterator[Settings]:
    """This process reads these settings, and no others, inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            patch.delenv(name)
        for name, value in environment(settings, **overrides).items():
            patch.setenv(name, value)
        _forget()
        try:
            yield module.settings()
        finally:
            _forget()


def _forget() -> None:
    for cached in CACHES:
        cached.cache_clear()


def _spelled(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, list | dict) else str(value)
