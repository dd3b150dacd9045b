"""
Events of the bus as JSON lines, for as long as somebody reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from twisted.web.server import Request

from binaryserver.bus.topics import Topics
from binaryserver.interfaces import IBus, IBusReader
from binaryserver.model import BoxKey, StoredRecord
from binaryserver.ops.linestream import LineStream
from binaryserver.proto import cloudnext_pb2
from binaryserver.transcode.downlink import RejectedMessage, readDownlink

_BATCH = 50
"""records read at once; each may be as large as the bus allows"""


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


class Tail(LineStream):
    """
    The answer to one request. Reads no more from the bus than the client takes.
    """

    what = "a tail"

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
        LineStream.__init__(self, request, clock)
        self._published = published
        self._bus = bus
        self._topics = topics
        self._query = query
        self._reader: IBusReader | None = None

    async def produce(self) -> None:
        """
        See L{LineStream.produce}.
        """
        self._reader = reader = await self._bus.openReader(self._query.topics, self._query.fromStart)
        # The header goes out before the first event does, which may be hours from now.
        self.open()
        while not self.isGone and (self._query.follow or not reader.caughtUp):
            for record in await reader.read(_BATCH):
                if self._query.matches(record.key, self._published):
                    await self.send(f"{recordToJson(record, self._topics)}\n".encode())

    async def release(self) -> None:
        """
        See L{LineStream.release}: a bus may take long to say that there is nothing to read.
        """
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()
