"""
What both ways between CloudNext's events and CloudConnect's share: how the gateway lays out a record.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from binaryserver.model import BoxKey
from binaryserver.proto.cloudnext_pb2 import Event, PresenceType
from binaryserver.transcode.envelope import CONTENT_TYPE, Envelope, cloudTime
from binaryserver.transcode.wire import (
    FIXED,
    KEY_EVENT_TIME,
    KEY_ID,
    KEY_INDEX,
    KEY_INGEST_TIME,
    KEY_STREAM,
    MISSING_BEFORE,
    NAME_AND_TIME,
    TRACK,
    UNINDEXED,
    varint,
)

RESERVED = "binaryserver"
"""The key of C{meta} that CloudConnect's agents leave alone."""

SERVER = "@@server@@"
"""Whom CloudConnect's messages of boxes are for."""


class Kind(Enum):
    """
    The kinds of events that CloudConnect has; the value is C{meta.event}.
    """

    track = "track"
    message = "message"
    presence = "presence"


PRESENCES = {number: name.removeprefix("PRESENCE_TYPE_").lower() for name, number in PresenceType.items()}
"""C{connect}, C{reconnect} and so on, by CloudNext's numbers."""

_CE_TYPES = {kind: ("ce_type", b"cloudnext.v1." + kind.value.title().encode()) for kind in Kind}
_MOST_KEPT = 4096

# Made for many events alike.
_envelopes: dict[tuple[Any, ...], Envelope] = {}


def envelopeOf(event: Event) -> Envelope:
    """
    The envelope that an event has, or had.
    """
    named = (event.account, event.asset, event.connection_id, event.link_epoch, event.instance, event.protocol)
    envelope = _envelopes.get(named)
    if envelope is None:
        if len(_envelopes) >= _MOST_KEPT:
            _envelopes.clear()
        box = BoxKey(event.account, event.asset)
        envelope = _envelopes[named] = Envelope(
            box, event.connection_id, event.link_epoch, event.instance, event.protocol
        )
    return envelope


def trackHead(envelope: Envelope, event: Event, track: bytes) -> bytes:
    """
    A track's event, all but the labels of its fields, as L{binaryserver.transcode.tracks} lays it out.

    @param track: bytes, one C{md30.v1.Track}
    """
    parts = [
        envelope.head,
        FIXED.pack(KEY_INGEST_TIME, event.ingest_time),
        FIXED.pack(KEY_STREAM, event.stream),
        bytes((KEY_ID,)),
        NAME_AND_TIME.pack(event.id, KEY_EVENT_TIME, event.event_time, KEY_INDEX, event.index),
    ]
    if event.unindexed:
        parts.append(UNINDEXED)
    if event.missing_before:
        parts.append(MISSING_BEFORE + varint(event.missing_before))
    parts += (TRACK, varint(len(track)), track)
    return b"".join(parts)


def otherValue(envelope: Envelope, event: Event) -> bytes:
    """
    A message's or a presence's event, as L{binaryserver.transcode.events} lays it out.
    """
    rest = Event()
    rest.CopyFrom(event)
    for name in ("account", "asset", "connection_id", "link_epoch", "instance", "protocol"):
        rest.ClearField(name)
    return envelope.head + rest.SerializeToString()


def usualHeaders(kind: Kind, envelope: Envelope, event: Event, eventId: bytes) -> list[tuple[str, bytes]] | None:
    """
    The headers that the gateway gives an event's record; L{None}: it never made such an event.

    @param eventId: bytes, the C{ce_id}
    """
    if kind is Kind.track:
        try:
            time = cloudTime(event.event_time)
        except (ValueError, OverflowError, OSError):
            return None
        return [_CE_TYPES[kind], envelope.source, CONTENT_TYPE, ("ce_id", eventId), ("ce_time", time)]
    try:
        return envelope.headers(_CE_TYPES[kind], eventId, event.event_time)
    except (ValueError, OverflowError, OSError):
        return None


def usualId(kind: Kind, envelope: Envelope, event: Event) -> bytes:
    """
    The C{ce_id} that the gateway gives an event; that of a track without an index cannot be told from it.
    """
    if event.stream and kind is not Kind.presence:
        return envelope.idPrefix + b"%d/%d" % (event.stream, event.index)
    return envelope.idPrefix + b"event/%d" % event.id
