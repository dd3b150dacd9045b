"""
Events of the bus as JSON lines, for as long as somebody reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from binaryserver.bus.topics import Topics
from binaryserver.errors import BinaryServerError, BusUnavailable
from binaryserver.interfaces import IBus, IBusReader
from binaryserver.model import BoxKey, StoredRecord
from binaryserver.ops.problem import sendProblem
from binaryserver.proto import cloudnext_pb2
from binaryserver.transcode.downlink import RejectedMessage, readDownlink

_BATCH = 50
"""records read at once; each may be as large as the bus allows"""
_PIECE = 16_384
"""bytes written at once"""
_STALLED = 30.0
"""s without progress after which a reader is dropped."""


class TailQuery(NamedTuple):
    """
    What is asked for.

    @ivar topics: full names
    @ivar asset: only this one's, under its own name or its pseudonym; empty: any
    @ivar account: likewise
    @ivar fromStart: from the first record that is kept; else from now on
    @ivar follow: go on when all is read
    """

    topics: tuple[str, ...]
    asset: str
    account: str
    fromStart: bool
    follow: bool

    @classmethod
    def parse(cls, arguments: Mapping[bytes, list[bytes]], topics: Topics) -> TailQuery:
        """
        From a URL's arguments.

        @raise ValueError: they cannot be understood
        """
        try:
            given = {name.decode(): [value.decode() for value in values] for name, values in arguments.items()}
        except UnicodeDecodeError:
            raise ValueError("the arguments are not UTF-8") from None
        unknown = sorted(set(given) - {"topic", "asset", "account", "from_start", "follow"})
        if unknown:
            raise ValueError(f"unknown argument {unknown[0]!r}; known: topic, asset, account, from_start, follow")
        wanted = []
        for name in given.get("topic", []):
            full = name if name in topics else getattr(topics, name, None) if name in topics._fields else None
            if full is None:
                raise ValueError(f"unknown topic {name!r}; known: {', '.join(topics._fields)}")
            if full not in wanted:
                wanted.append(full)
        flags = {"0": False, "1": True}
        for name in ("from_start", "follow"):
            for value in given.get(name, []):
                if value not in flags:
                    raise ValueError(f"{name} is 0 or 1, not {value!r}")
        return cls(
            tuple(wanted) or topics.published,
            given.get("asset", [""])[-1],
            given.get("account", [""])[-1],
            flags[given.get("from_start", ["0"])[-1]],
            flags[given.get("follow", ["1"])[-1]],
        )

    def matches(self, key: bytes, published: Callable[[BoxKey], BoxKey]) -> bool:
        """
        Whether a record of that key is asked for.

        @param published: the name that a box's events may have beside its own
        """
        account, _, asset = key.decode("utf-8", "replace").partition("/")
        if self.account and account != self.account:
            return False
        return self.asset in ("", asset) or asset == published(BoxKey(account, self.asset)).asset


def recordToJson(record: StoredRecord, topics: Topics) -> str:
    """
    One record: protobuf's canonical JSON with the proto's names, and where it stands.
    """
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    try:
        message = _parse(record, topics)
    except (DecodeError, RejectedMessage):
        return json.dumps({**place, "error": "not a message of this topic", "size": len(record.value)})
    fields = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return json.dumps({**place, **fields}, ensure_ascii=False)


def _parse(record: StoredRecord, topics: Topics) -> Any:
    if record.topic == topics.downlink:
        return readDownlink(record)
    if record.topic == topics.directory:
        return cloudnext_pb2.DirectoryChange.FromString(record.value)
    return (cloudnext_pb2.Reject if record.topic == topics.rejects else cloudnext_pb2.Event).FromString(record.value)


@implementer(IPushProducer)
class Tail:
    """
    The answer to one request. Reads no more from the bus than the client takes.
    """

    log = Logger()

    def __init__(
        self,
        request: Request,
        bus: IBus,
        topics: Topics,
        query: TailQuery,
        clock: Any,
        published: Callable[[BoxKey], BoxKey],
    ) -> None:
        """
        @param published: see L{TailQuery.matches}
        """
        self._request = request
        self._published = published
        self._bus = bus
        self._topics = topics
        self._query = query
        self._clock = clock
        self._isGone = False
        self._reader: IBusReader | None = None
        self._mayWrite: Deferred[None] | None = None
        self._stall: Any = None

    def start(self) -> Deferred[None]:
        """
        Begin to answer.

        @return: fires when nothing is held for it any more
        """
        self._request.notifyFinish().addBoth(self._gone)
        return Deferred.fromCoroutine(self._run()).addErrback(self._failed)

    async def _run(self) -> None:
        self._reader = reader = await self._bus.openReader(self._query.topics, self._query.fromStart)
        try:
            if self._isGone:
                return
            self._request.registerProducer(self, True)
            # The header goes out before the first event does, which may be hours from now.
            self._request.write(b"")
            while not self._isGone and (self._query.follow or not reader.caughtUp):
                for record in await reader.read(_BATCH):
                    if self._query.matches(record.key, self._published):
                        await self._send(f"{recordToJson(record, self._topics)}\n".encode())
        finally:
            await self._closeReader()
        if not self._isGone:
            self._request.unregisterProducer()
            self._request.finish()

    async def _send(self, line: bytes) -> None:
        """
        Write a line as the client takes it: a piece more than it has taken is all that is held for it.
        """
        for start in range(0, len(line), _PIECE):
            if self._mayWrite is not None:
                await self._mayWrite
            if self._isGone:
                return
            self._request.write(line[start : start + _PIECE])

    async def _closeReader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    def _failed(self, failure: Failure) -> None:
        if failure.check(BinaryServerError):
            self.log.warn("a tail ended: {reason}", reason=failure.getErrorMessage())
            status, detail = 503, failure.getErrorMessage()
        else:
            self.log.failure("a tail ended in an unforeseen way", failure)
            status, detail = 500, "this is the gateway's fault; its log says more"
        if self._isGone:
            return
        if self._request.startedWriting:
            # There may be lines out already: that the answer is cut short is all that can be said.
            self._request.unregisterProducer()
            self._request.loseConnection()
        else:
            sendProblem(self._request, status, detail)

    def end(self) -> None:
        """
        The gateway stops: cut the answer short.
        """
        self._failed(Failure(BusUnavailable("the gateway stops")))
        self._gone(None)

    def _gone(self, _: object) -> None:
        self._isGone = True
        self.resumeProducing()
        # Not only once its read is over: a bus may take long to say that there is nothing.
        Deferred.fromCoroutine(self._closeReader()).addErrback(self._failed)

    def pauseProducing(self) -> None:
        """
        The client does not take more for now.
        """
        if self._mayWrite is None and not self._isGone:
            self._mayWrite = Deferred()
            self._stall = self._clock.callLater(_STALLED, self._stalled)

    def _stalled(self) -> None:
        self.log.info("a tail's client took nothing for {seconds} s: dropped", seconds=_STALLED)
        channel: Any = self._request.channel
        channel.transport.abortConnection()

    def resumeProducing(self) -> None:
        """
        It does again.
        """
        if self._stall is not None and self._stall.active():
            self._stall.cancel()
        waiting, self._mayWrite = self._mayWrite, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        """
        See L{IPushProducer.stopProducing}; L{_gone} is told too.
        """
