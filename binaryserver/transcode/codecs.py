"""
The forms in which boxes send their tracks: protobuf, and protobuf's canonical JSON.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from twisted.plugin import IPlugin
from zope.interface import implementer

from binaryserver.errors import RejectedData
from binaryserver.interfaces import IEventCodec
from binaryserver.proto.md30_pb2 import TrackBatch


@implementer(IPlugin, IEventCodec)
class ProtobufCodec:
    """
    C{md30.v1.TrackBatch} as protobuf. Unknown fields are kept: they stand in the event's track as the box sent them.
    """

    shortTopic = "t"
    longTopic = "tracks"
    # The parser takes about 10 ns a byte.
    threadedAbove = 1 << 30

    def decode(self, payload: bytes) -> tuple[TrackBatch, int]:
        """
        See L{IEventCodec.decode}.
        """
        try:
            return TrackBatch.FromString(payload), 0
        except DecodeError as error:
            raise RejectedData("DECODE", "the payload is no md30.v1.TrackBatch") from error


@implementer(IPlugin, IEventCodec)
class JsonCodec:
    """
    C{md30.v1.TrackBatch} as protobuf's canonical JSON: proto names or camelCase; unknown ones are ignored and counted.
    """

    shortTopic = "tj"
    longTopic = "tracks/json"
    threadedAbove = 16_384

    def decode(self, payload: bytes) -> tuple[TrackBatch, int]:
        """
        See L{IEventCodec.decode}.
        """
        try:
            value = json.loads(payload)
            if not isinstance(value, dict):
                raise RejectedData("DECODE", "the JSON is no object")
            unknown = _countUnknown(value, TrackBatch.DESCRIPTOR)
            return ParseDict(value, TrackBatch(), ignore_unknown_fields=True), unknown
        except RejectedData:
            raise
        except Exception as error:
            # Of any type: the parsers raise more than they say, e.g. SystemError for a name with a lone surrogate.
            # Not the parser's own words: they repeat the value, which may be a position.
            raise RejectedData(
                "DECODE", f"the payload is no md30.v1.TrackBatch in JSON ({type(error).__name__})"
            ) from error


def _countUnknown(value: dict[str, Any], descriptor: Any) -> int:
    count = 0
    for name, inner in value.items():
        field = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
        if field is None:
            count += 1
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for one in inner if isinstance(inner, list) else [inner]:
                if isinstance(one, dict):
                    count += _countUnknown(one, field.message_type)
    return count
