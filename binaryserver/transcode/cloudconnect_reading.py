"""
The way back: what CloudConnect's events were made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack
from google.protobuf.message import DecodeError

from binaryserver.errors import RejectedData
from binaryserver.model import Record
from binaryserver.proto.cloudnext_pb2 import Event, Message, Presence
from binaryserver.transcode.cloudconnect_layout import (
    PRESENCES,
    RESERVED,
    Kind,
    envelopeOf,
    otherValue,
    trackHead,
    usualHeaders,
    usualId,
)

_KINDS = {kind.value: kind for kind in Kind}
_MAX_UINT64 = (1 << 64) - 1
_PRESENCE_NUMBERS = {name: number for number, name in PRESENCES.items()}


class Decoded(NamedTuple):
    """
    An event of CloudConnect, as CloudNext's.

    @ivar shared: it was published to CloudNext, too
    """

    kind: Kind
    record: Record
    shared: bool


def decodeEvent(packed: bytes) -> Decoded:
    """
    The record that L{binaryserver.transcode.cloudconnect.encodeEvent} was given.

    @param packed: bytes, MessagePack
    @raise RejectedData: it made no such event
    """
    try:
        document = msgpack.unpackb(packed)
    except Exception as error:
        # Of any type: the parser raises ValueError, TypeError, its own, and RecursionError for what is nested deep.
        raise RejectedData("DECODE", f"it is no MessagePack ({type(error).__name__})") from error
    meta, payload = _map(document, "meta"), _map(document, "payload")
    account, rest = _text(meta, "account"), _map(meta, RESERVED)
    kind = _KINDS.get(_text(meta, "event"))
    if kind is None:
        raise RejectedData("DECODE", "its event is no track, message or presence")
    value, event = valueOf(kind, account, payload, rest)
    if (event.account, event.asset) != (account, _text(payload, "asset")):
        raise RejectedData("DECODE", "it is not of the box that it says")
    envelope = envelopeOf(event)
    if "headers" in rest:
        headers = _headers(rest)
    else:
        eventId = _bytes(rest, "ce_id") if "ce_id" in rest else usualId(kind, envelope, event)
        usual = usualHeaders(kind, envelope, event, eventId)
        if usual is None:
            raise RejectedData("DECODE", "its time is none")
        headers = usual
    key = _bytes(rest, "key") if "key" in rest else envelope.key
    return Decoded(kind, Record(key, value, headers), rest.get("shared") is True)


def valueOf(kind: Kind, account: str, payload: Mapping[str, Any], rest: Mapping[str, Any]) -> tuple[bytes, Event]:
    """
    The C{cloudnext.v1.Event} that an event was made of.

    @param rest: what stands under L{RESERVED}
    @return: its bytes, and itself: of a track, perhaps without what C{rest} has in its wire form
    @raise RejectedData: this was made of none
    """
    try:
        if "event" in rest:
            value = _bytes(rest, "event")
            event = Event.FromString(value)
            if event.WhichOneof("body") != kind.value:
                raise RejectedData("DECODE", f"its event is no {kind.value}")
            return value, event
        event = _common(account, payload, rest)
        envelope = envelopeOf(event)
        if kind is Kind.track:
            _times(event, payload)
            value = trackHead(envelope, event, _bytes(rest, "track")) + _bytes(rest, "labels")
            read = Event.FromString(value)
            if read.WhichOneof("body") != kind.value or read.id != event.id:
                raise RejectedData("DECODE", "its labels are none")
            return value, read
        if kind is Kind.message:
            _times(event, payload)
            event.message.CopyFrom(_message(payload, rest))
        else:
            event.event_time, event.ingest_time = _number(payload, "time_ms"), _number(rest, "ingest_time")
            event.index = _number(rest, "index")
            event.presence.CopyFrom(_presence(payload, rest))
        return otherValue(envelope, event), event
    except DecodeError as error:
        raise RejectedData("DECODE", "what it was made of is no cloudnext.v1.Event") from error
    except (ValueError, TypeError) as error:
        # What protobuf says of texts and numbers that no event can have.
        raise RejectedData("DECODE", f"a value of it is impossible ({type(error).__name__})") from error


def _common(account: str, payload: Mapping[str, Any], rest: Mapping[str, Any]) -> Event:
    return Event(
        id=_number(payload, "id"),
        account=account,
        asset=_text(payload, "asset"),
        connection_id=_number(payload, "connection_id"),
        link_epoch=_number(rest, "link_epoch"),
        instance=_text(rest, "instance"),
        protocol=_number(rest, "protocol", 0x7FFF_FFFF),  # type: ignore[arg-type]
        stream=_number(rest, "stream") if "stream" in rest else 0,
        index=_number(payload, "index") if "index" in payload else 0,
        unindexed=rest.get("unindexed") is True,
        missing_before=_number(rest, "missing_before") if "missing_before" in rest else 0,
    )


def _times(event: Event, payload: Mapping[str, Any]) -> None:
    event.event_time, event.ingest_time = _number(payload, "recorded_at_ms"), _number(payload, "received_at_ms")


def _message(payload: Mapping[str, Any], rest: Mapping[str, Any]) -> Message:
    status = _number(rest, "ack_status", 0x7FFF_FFFF)
    return Message(
        id=_text(rest, "message_id"),
        channel=_text(payload, "channel"),
        payload=_bytes(payload, "payload"),
        ack_of=_text(payload, "parent_id_str") if "parent_id_str" in payload else "",
        ack_status=status,  # type: ignore[arg-type]
    )


def _presence(payload: Mapping[str, Any], rest: Mapping[str, Any]) -> Presence:
    number = _PRESENCE_NUMBERS.get(_text(payload, "type"))
    if number is None:
        raise RejectedData("DECODE", "its type of presence is unknown")
    return Presence(
        type=number,  # type: ignore[arg-type]
        reason=_text(payload, "reason"),
        reason_from_box=rest.get("reason_from_box") is True,
        peer_address=_text(rest, "peer_address"),
        detail=_text(rest, "detail"),
    )


def _headers(rest: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    headers = []
    given = rest["headers"]
    for each in given if isinstance(given, list) else [None]:
        match each:
            case [str(name), bytes(value)]:
                headers.append((name, value))
            case _:
                raise RejectedData("DECODE", "its headers are none")
    return headers


# Called some twenty times an event, and so each by itself.


def _map(values: Any, name: str) -> dict[str, Any]:
    value = values.get(name) if type(values) is dict else None
    if type(value) is not dict:
        raise _missing(name, "map")
    return value


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if type(value) is not str:
        raise _missing(name, "text")
    return value


def _bytes(values: Mapping[str, Any], name: str) -> bytes:
    value = values.get(name)
    if type(value) is not bytes:
        raise _missing(name, "bytes")
    return value


def _number(values: Mapping[str, Any], name: str, most: int = _MAX_UINT64) -> int:
    value = values.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise _missing(name, "number in its range")
    return value


def _missing(name: str, kind: str) -> RejectedData:
    return RejectedData("DECODE", f"{name} is missing, or no {kind}")
