"""What can go wrong with a yard of one host.

    YardError
    ├── AlreadyRunning      another `modelyard up` holds the folder
    ├── NotRunning          there is no yard in this folder
    ├── MissingBinary       a store's program was not found, or is too old
    ├── Unconfinable        PostgreSQL refuses root, and this host forbids user namespaces
    ├── NotASetting         a MODELYARD_ variable that nobody would read
    └── CannotStart         a store or role did not become ready

The message says what happened, `fix` what to do about it.
"""

from typing import ClassVar


class YardError(Exception):
    """The yard cannot do that."""

    fix: ClassVar[str] = "Run `modelyard doctor`."

    def __init__(self, message: str | None = None, *, fix: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.advice = fix or self.fix
        super().__init__(f"{self.message} {self.advice}")


class AlreadyRunning(YardError):
    """A yard is already running in this folder."""

    fix = "Use it, stop it with `modelyard down`, or give another folder with --data."


class NotRunning(YardError):
    """No yard is running in this folder."""

    fix = "Start one with `modelyard up`."


class MissingBinary(YardError):
    """A program that the yard needs was not found."""


class Unconfinable(YardError):
    """PostgreSQL refuses to run as root, and this host forbids user namespaces."""

    fix = (
        "Run `modelyard up` as an ordinary user with a data folder of its own, e.g. "
        "`useradd --create-home modelyard && runuser -u modelyard -- modelyard up --data ~modelyard/yard`, "
        "or allow user namespaces (sysctl user.max_user_namespaces; in a container: "
        "--security-opt seccomp=unconfined)."
    )


class NotASetting(YardError):
    """A MODELYARD_ variable is no setting of an embedded yard."""

    fix = "Unset it."


class CannotStart(YardError):
    """A part of the yard did not become ready."""

    fix = "Read the log named above, then run `modelyard doctor`."
