"""
Changes of the directory, as they are told on the bus's topic C{directory}.

Every instance reads all of them, from when it starts: before, it knows nothing that could be out of date.
"""

from __future__ import annotations

import json

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from binaryserver.directory.cache import Directory
from binaryserver.directory.records import Change
from binaryserver.errors import BusError
from binaryserver.interfaces import IBus, IBusReader
from binaryserver.model import StoredRecord
from binaryserver.proto.cloudnext_pb2 import DirectoryChange
from binaryserver.service import Component
from binaryserver.transcode.events import isName

_LIMIT = 500
_RETRY = 1.0


class DirectoryNotices(Component):
    """
    Of one process. Starts the directory too, behind the reader: no change is missed in between.
    """

    log = Logger()

    def __init__(self, directory: Directory, bus: IBus, topic: str, clock: IReactorTime) -> None:
        self._directory = directory
        self._bus = bus
        self._topic = topic
        self._clock = clock
        self._reader: IBusReader | None = None
        self._waiting: Deferred[None] | None = None
        self._ended: Deferred[None] | None = None
        self._isStopping = False

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.
        """

        def opened(reader: IBusReader) -> None:
            self._reader = reader
            self._ended = Deferred.fromCoroutine(self._run())

        return self._open().addCallback(opened)

    def _open(self) -> Deferred[IBusReader]:
        reader: Deferred[IBusReader] = self._bus.openReader((self._topic,), False)
        return reader

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}.
        """
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        self._isStopping = True
        if self._waiting is not None:
            self._waiting.cancel()
        if self._reader is not None:
            await self._reader.close()
        if self._ended is not None:
            await self._ended

    async def _run(self) -> None:
        while not self._isStopping:
            try:
                if self._reader is None:
                    self._reader = await self._open()
                    # Whatever was told meanwhile was not heard.
                    self._directory.changed(Change())
                records = await self._reader.read(_LIMIT)
                # Each once: that anything may be another takes some time, and is what many that cannot be read say.
                for change in dict.fromkeys(map(self._read, records)):
                    self._directory.changed(change)
            except BusError as error:
                self.log.warn("the directory's changes cannot be read, trying again: {reason}", reason=str(error))
                await self._lost()
            except Exception:
                self.log.failure("the directory's changes could not be read, in an unforeseen way; trying again")
                await self._lost()

    async def _lost(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not self._isStopping:
            await reader.close()
        if not self._isStopping:
            self._waiting = deferLater(self._clock, _RETRY)
            try:
                await self._waiting
            except CancelledError:
                self.log.debug("the reader of changes stops instead of waiting")
            self._waiting = None

    def _read(self, record: StoredRecord) -> Change:
        change = readChange(record)
        if change is not None:
            return change
        self.log.warn(
            "a change of the directory cannot be read: whatever is known is looked up again ({place})",
            place=f"{record.topic}/{record.partition}/{record.offset}",
        )
        return Change()


def readChange(record: StoredRecord) -> Change | None:
    """
    What a record says has changed; L{None}: it cannot be told.
    """
    told = DirectoryChange()
    kind = next((value for name, value in record.headers if name == "content-type"), b"")
    try:
        if kind.partition(b";")[0].strip().lower() == b"application/json":
            given = json.loads(record.value)
            if not isinstance(given, dict):
                return None
            json_format.ParseDict(given, told, ignore_unknown_fields=True)
        else:
            told.ParseFromString(record.value)
    except (DecodeError, json_format.ParseError, ValueError, RecursionError):
        return None
    if not all(isName(name) for name in (told.account, told.asset) if name) or (told.asset and not told.account):
        return None
    return Change(told.account, told.asset)
