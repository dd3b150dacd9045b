"""
CloudConnect's events: MessagePack maps of C{meta} and C{payload}, made of what is published to CloudNext.

See C{docs/cloudconnect.md}. What an event of CloudNext has and CloudConnect has no name for stands in C{meta} under
L{RESERVED}, so that the way back (L{binaryserver.transcode.cloudconnect_reading}) gives the same record, to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

import msgpack
from google.protobuf.message import DecodeError

from binaryserver.errors import RejectedData
from binaryserver.model import Record
from binaryserver.proto.cloudnext_pb2 import Event, FieldLabel
from binaryserver.proto.md30_pb2 import Value
from binaryserver.transcode.cloudconnect_layout import (
    PRESENCES,
    RESERVED,
    SERVER,
    Kind,
    envelopeOf,
    trackHead,
    usualHeaders,
    usualId,
)
from binaryserver.transcode.cloudconnect_reading import valueOf
from binaryserver.transcode.envelope import Envelope

_SHORT, _LONG, _DOUBLE = Struct(">i"), Struct(">q"), Struct(">d")
# A hostile box must not make the names grow without end.
_MOST_KEPT = 4096
_MOST_KEPT_FIELDS = 128

# The names of fields, by their serialized labels and their numbers: fleets use a handful of sets.
_names: dict[tuple[bytes, tuple[int, ...]], list[str]] = {}


def encodeEvent(kind: Kind, record: Record, shared: bool = False) -> bytes:
    """
    CloudConnect's form of an event.

    @param record: with a C{cloudnext.v1.Event} of that kind as its value
    @param shared: it is published to CloudNext, too: the Shovel is to leave it alone
    @return: bytes, MessagePack
    @raise RejectedData: it has none
    """
    try:
        event = Event.FromString(record.value)
    except DecodeError as error:
        raise RejectedData("DECODE", "the value is no cloudnext.v1.Event") from error
    if event.WhichOneof("body") != kind.value:
        raise RejectedData("DECODE", f"the event is no {kind.value}")
    envelope = envelopeOf(event)
    rest: dict[str, Any] = {"link_epoch": event.link_epoch, "instance": event.instance, "protocol": event.protocol}
    if event.stream:
        rest["stream"] = event.stream
    if event.unindexed:
        rest["unindexed"] = True
    if event.missing_before:
        rest["missing_before"] = event.missing_before
    payload: dict[str, Any] = {
        "id": event.id,
        "id_str": str(event.id),
        "asset": event.asset,
        "connection_id": event.connection_id,
        "connection_id_str": str(event.connection_id),
    }
    if kind is Kind.presence:
        _presence(event, payload, rest)
        isWhole = _isWhole(kind, event, record.value, payload, rest)
    else:
        if not event.unindexed:
            payload["index"], payload["index_str"] = event.index, str(event.index)
        payload["recorded_at"], payload["recorded_at_ms"] = event.event_time // 1000, event.event_time
        payload["received_at"], payload["received_at_ms"] = event.ingest_time // 1000, event.ingest_time
        if kind is Kind.track:
            isWhole = _track(event, envelope, record.value, payload, rest)
        else:
            _message(event, payload, rest)
            isWhole = _isWhole(kind, event, record.value, payload, rest)
    if not isWhole:
        rest = {"event": record.value}
    _addressing(kind, record, event, envelope, rest)
    if shared:
        rest["shared"] = True
    meta = {"account": event.account, "event": kind.value, RESERVED: rest}
    packed: bytes = msgpack.packb({"meta": meta, "payload": payload})
    return packed


def _isWhole(kind: Kind, event: Event, value: bytes, payload: dict[str, Any], rest: dict[str, Any]) -> bool:
    """
    Whether the way back will give the same bytes.
    """
    try:
        return valueOf(kind, event.account, payload, rest)[0] == value
    except RejectedData:
        return False


def _addressing(kind: Kind, record: Record, event: Event, envelope: Envelope, rest: dict[str, Any]) -> None:
    """
    What the key and the headers of a record say that does not follow from the event.
    """
    if record.key != envelope.key:
        rest["key"] = record.key
    headers = list(record.headers)
    eventId = usualId(kind, envelope, event)
    if headers == usualHeaders(kind, envelope, event, eventId):
        return
    given = next((value for name, value in headers if name == "ce_id"), eventId)
    if headers == usualHeaders(kind, envelope, event, given):
        rest["ce_id"] = given
    else:
        rest["headers"] = [list(header) for header in headers]


def _track(event: Event, envelope: Envelope, value: bytes, payload: dict[str, Any], rest: dict[str, Any]) -> bool:
    """
    @return: whether the event can be put together again
    """
    track = event.track
    if track.HasField("latitude") and track.HasField("longitude"):
        latitude, longitude = track.latitude, track.longitude
        payload["loc"] = [longitude / 1e7, latitude / 1e7]
        payload["latitude"], payload["longitude"] = round(latitude / 100), round(longitude / 100)
    body = track.SerializeToString()
    head = trackHead(envelope, event, body)
    isWhole = value.startswith(head) and not (event.unindexed and event.index)
    labels = value[len(head) :] if isWhole else b""
    numbers = tuple(track.field_numbers)
    names = _names.get((labels, numbers)) if isWhole else None
    if names is None:
        names = fieldNames(numbers, event.field_labels)
        if isWhole and len(numbers) <= _MOST_KEPT_FIELDS:
            if len(_names) >= _MOST_KEPT:
                _names.clear()
            _names[labels, numbers] = names
    payload["fields"] = dict(zip(names, map(rawValue, track.field_values), strict=False))
    rest["track"], rest["labels"] = body, labels
    return isWhole


def fieldNames(numbers: Sequence[int], labels: Sequence[FieldLabel]) -> list[str]:
    """
    The names of fields; the number in decimal for one that the account's dictionary does not know.
    """
    names = [label.name for label in labels[: len(numbers)]]
    names += [""] * (len(numbers) - len(names))
    return [name or str(number) for name, number in zip(names, numbers, strict=True)]


def rawValue(value: Value) -> bytes:
    """
    A field's value as CloudConnect has it: numbers big-endian, a whole number in 4 bytes or, if it must, in 8.
    """
    number = value.int_value
    # Most are whole numbers, and a number other than 0 needs not be asked whether it is there.
    kind = "int_value" if number else value.WhichOneof("value")
    if kind == "int_value":
        return _SHORT.pack(number) if -0x8000_0000 <= number <= 0x7FFF_FFFF else _LONG.pack(number)
    if kind == "bool_value":
        return b"\x01" if value.bool_value else b"\x00"
    if kind == "string_value":
        return value.string_value.encode()
    if kind == "double_value":
        return _DOUBLE.pack(value.double_value)
    return value.bytes_value


def _message(event: Event, payload: dict[str, Any], rest: dict[str, Any]) -> None:
    message = event.message
    payload["type"] = "ack" if message.ack_of else "message"
    payload["sender"], payload["recipient"] = event.asset, SERVER
    payload["channel"], payload["payload"] = message.channel, message.payload
    if message.ack_of:
        payload["parent_id_str"] = message.ack_of
        if message.ack_of.isascii() and message.ack_of.isdigit() and int(message.ack_of) < 1 << 64:
            payload["parent_id"] = int(message.ack_of)
    rest["message_id"], rest["ack_status"] = message.id, message.ack_status


def _presence(event: Event, payload: dict[str, Any], rest: dict[str, Any]) -> None:
    presence = event.presence
    payload["time"], payload["time_ms"] = event.event_time // 1000, event.event_time
    payload["type"] = PRESENCES.get(presence.type, str(presence.type))
    payload["reason"], payload["bs"] = presence.reason, event.instance
    rest["ingest_time"], rest["index"] = event.ingest_time, event.index
    rest["reason_from_box"], rest["peer_address"] = presence.reason_from_box, presence.peer_address
    rest["detail"] = presence.detail
