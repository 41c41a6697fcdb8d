"""The process between guard and server. It has one task: when it is over, nothing of the server is left."""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from shared.contracts.guard import GuardConfig
from workers.engine.guard.environment import of_server
from workers.engine.guard.tree import adopt_orphans, end_descendants
from workers.engine.life import die_with_parent

_POLL_S: Final = 0.1  # how soon the server's death is noticed
_NOT_STARTED: Final = 127  # a shell's status for a command that it cannot run


@dataclass
class Warden:
    """The guard's end of the leash."""

    pid: int
    _leash: int

    @classmethod
    def fork(cls, config: GuardConfig) -> "Warden":
        """Start the warden, which starts the server. To be called in a process of one thread."""
        theirs, ours = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            os._exit(_guarded_run(config, theirs))
        os.close(theirs)
        return cls(pid, ours)

    def terminate(self) -> None:
        """Ask the server to leave."""
        with suppress(BrokenPipeError):  # the warden was killed: the server with it
            os.write(self._leash, b".")

    def release(self) -> None:
        """End the server and all that it started, now."""
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1

    def wait(self) -> int:
        """Block until nothing is left; the server's exit status (128 + n: by signal n)."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _guarded_run(config: GuardConfig, leash: int) -> int:
    try:
        os.setsid()  # whoever kills the guard's group must not kill the only one who cleans up
        adopt_orphans()
        config.uds.unlink(missing_ok=True)  # of a server that was killed: it could not bind
        os.umask(0o077)  # the server's socket is for our own user alone
        return _run(config, leash)
    except OSError as error:
        sys.stderr.write(f"{type(error).__name__}: {error.strerror}: {error.filename}\n")
        return _NOT_STARTED


def _run(config: GuardConfig, leash: int) -> int:
    warden = os.getpid()
    server = subprocess.Popen(
        config.argv,
        cwd=config.cwd,
        env=of_server(config.env),
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: die_with_parent(warden),  # noqa: PLW1509 - this process has one thread
        start_new_session=True,
        pass_fds=config.lock_fds,
    )
    status: int | None = None
    while status is None:
        if select.select([leash], [], [], _POLL_S)[0]:
            if not os.read(leash, 1):
                break
            server.send_signal(signal.SIGTERM)
        status = server.poll()
    end_descendants()
    if status is None:
        return 128 + signal.SIGKILL
    return status if status >= 0 else 128 - status
