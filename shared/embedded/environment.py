"""What the yard's processes are told: MODELYARD_ENV_FILE in the environment, the rest in that file (0600)."""

import os
from collections.abc import Mapping

from shared.embedded.errors import NotASetting
from shared.embedded.layout import Layout, write_private
from shared.settings import PREFIX, Settings

#: every process of a yard carries it, so that a yard can find what a dead one left behind
MARK = f"{PREFIX}YARD"
PASSED = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME",
    "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
)  # fmt: skip
CALLERS = frozenset({"URL", "API_KEY", "ENV_FILE", "YARD", "DATA_DIR", "PORT"})  # the CLI's options, and our own
MADE_HERE = frozenset(
    {"run_dir", "host", "database_url", "broker_url", "cache_url", "secret_key"}
    | {"s3_endpoint", "s3_secure", "s3_access_key", "s3_secret_key"}
)  # the yard makes these itself


def base(place: Layout, *, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: the names in PASSED as given, the mark, nothing secret."""
    kept = {name: given[name] for name in PASSED if name in given}
    return {"PATH": os.defpath, **kept, "PYTHONUNBUFFERED": "1", MARK: str(place.data)}


def python(place: Layout, *, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of our own: `base`, and where to read the settings."""
    return {**base(place, given=given), f"{PREFIX}ENV_FILE": str(place.env_file)}


def overrides(given: Mapping[str, str]) -> dict[str, str]:
    """The MODELYARD_ variables that a caller of `up` set, by setting name; they go into the env file.

    Raises NotASetting for a name that is none, and for one that the yard makes itself.
    """
    found = {name.removeprefix(PREFIX): value for name, value in given.items() if name.startswith(PREFIX)}
    chosen = {name.lower(): value for name, value in found.items() if name not in CALLERS}
    for name in sorted(chosen):
        if name in MADE_HERE or name.removesuffix("_file") in MADE_HERE:
            raise NotASetting(f"{PREFIX}{name.upper()} is set, but an embedded yard makes its own.")
        if name not in Settings.model_fields:
            raise NotASetting(f"{PREFIX}{name.upper()} is not a setting.")
    return chosen


def write(place: Layout, values: Mapping[str, str]) -> None:
    """Write secrets/modelyard.env: one MODELYARD_NAME='value' a line, in dotenv's single quotes."""
    lines = [f"{PREFIX}{name.upper()}='{_escaped(value)}'\n" for name, value in values.items()]
    write_private(place.env_file, "".join(lines))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
