"""Landlock (Linux 5.13 and later): a process gives up the file system, but for what it has to read.

Numbers and structures are those of linux/landlock.h; the system calls have one number on every architecture.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1  # flag: answer which version of the interface the kernel speaks
_PATH_BENEATH: Final = 1

_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_FILES: Final = {1: 13, 2: 14, 3: 15, 5: 16}  # from this version on, so many kinds of access to files are known
_TCP: Final = 0b11  # bind and connect, from version 4 on
_SCOPED: Final = 0b11  # abstract sockets and signals stay among ourselves, from version 6 on

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def read_only(*, folders: Iterable[str | Path], files: Iterable[str | Path]) -> bool:
    """From now on only these can be opened, for reading; what is open stays open. No TCP, no signals to others.

    Needs no_new_privs. Answers whether the kernel enforces it; one without Landlock does not.
    """
    version = _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    if version < 1:
        return False
    known = (1 << max(bits for since, bits in _FILES.items() if since <= version)) - 1
    asked = struct.pack("QQQ", known, _TCP, _SCOPED)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _LIBC.syscall(_CREATE_RULESET, asked, ctypes.c_size_t(len(asked)), ctypes.c_uint32(0))
    if rules < 0:
        return False
    try:
        for folder in folders:
            _allow(rules, folder, _READ_FILE | _READ_DIR | _EXECUTE)
        for file in files:
            _allow(rules, file, _READ_FILE)
        return bool(_LIBC.syscall(_RESTRICT_SELF, rules, ctypes.c_uint32(0)) == 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: str | Path, access: int) -> None:
    """Add a rule; one for a path that is not there is none."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = struct.pack("=Qi", access, descriptor)
            _LIBC.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, ctypes.c_uint32(0))
        finally:
            os.close(descriptor)
