"""
What tells one state of a file from the next, without reading it.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class FileStamp(NamedTuple):
    """
    @ivar modified: ns
    @ivar size: bytes
    """

    modified: int
    inode: int
    size: int


def stampOf(file: str | int) -> FileStamp:
    """
    The stamp of a file as it is now. Blocks, as long as its disk does.

    @param file: its path, or a descriptor that is open on it
    @raise OSError: it cannot be looked at
    """
    status = os.stat(file)
    return FileStamp(status.st_mtime_ns, status.st_ino, status.st_size)


def stampIfThere(path: str) -> FileStamp | None:
    """
    The stamp of a file; L{None}: it cannot be looked at, which is a state like any other.
    """
    try:
        return stampOf(path)
    except OSError:
        return None
