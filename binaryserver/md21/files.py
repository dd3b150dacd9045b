"""
A file that a box sends: one at a time, and bounded.

Sans-IO. It is kept in memory until it is whole and its hash is right; what it then becomes is the owner's to decide.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from binaryserver.md21.values import FileAck, FilePart, FileStart, FileStatus

MAX_FILE_NAME: Final = 128
"""Bytes of UTF-8 of a file's name: it becomes the id of a message."""


class FileReceived(NamedTuple):
    """
    A file is whole. The owner answers with L{FileAck} COMPLETE once it is durable.

    @ivar name: at most L{MAX_FILE_NAME} bytes of UTF-8
    """

    fileId: int
    name: str
    data: bytes


class FileReceiver:
    """
    One link's.
    """

    __slots__ = ("_data", "_maxSize", "_start")

    def __init__(self, maxSize: int) -> None:
        """
        @param maxSize: bytes, the largest file that is taken
        """
        self._maxSize = maxSize
        self._start: FileStart | None = None
        self._data = bytearray()

    @property
    def size(self) -> int:
        """
        Bytes of the file under way, those to come included; 0: none is.
        """
        return 0 if self._start is None else self._start.size

    def start(self, start: FileStart) -> FileAck | FileReceived:
        """
        A box would send a file. Another one under way is one too many; the same number again begins it anew.
        """
        under = self._start
        if under is not None and under.fileId != start.fileId:
            return FileAck(start.fileId, 0, FileStatus.REFUSED)
        self.drop()
        if start.size > self._maxSize:
            return FileAck(start.fileId, 0, FileStatus.TOO_LARGE)
        if len(start.fileName.encode()) > MAX_FILE_NAME:
            return FileAck(start.fileId, 0, FileStatus.REFUSED)
        self._start = start
        return self._whole() if not start.size else FileAck(start.fileId, 0, FileStatus.OK)

    def part(self, part: FilePart) -> FileAck | FileReceived:
        """
        The next part. One that does not follow, or goes beyond what was announced, ends the transfer.
        """
        start, have = self._start, len(self._data)
        if start is None or start.fileId != part.fileId:
            return FileAck(part.fileId, 0, FileStatus.UNKNOWN_FILE)
        if part.offset != have:
            self.drop()
            return FileAck(part.fileId, have, FileStatus.BAD_OFFSET)
        if have + len(part.data) > start.size:
            self.drop()
            return FileAck(part.fileId, have, FileStatus.TOO_LARGE)
        self._data += part.data
        if len(self._data) == start.size:
            return self._whole()
        return FileAck(part.fileId, len(self._data), FileStatus.OK)

    def _whole(self) -> FileAck | FileReceived:
        start, data = self._start, bytes(self._data)
        assert start is not None
        self.drop()
        if sha256(data).digest() != start.sha256:
            return FileAck(start.fileId, 0, FileStatus.BAD_HASH)
        return FileReceived(start.fileId, start.fileName, data)

    def expire(self) -> FileAck | None:
        """
        The file under way has taken too long.
        """
        start, have = self._start, len(self._data)
        self.drop()
        return None if start is None else FileAck(start.fileId, have, FileStatus.ABORTED)

    def drop(self) -> None:
        """
        Forget the file under way.
        """
        self._start = None
        self._data = bytearray()
