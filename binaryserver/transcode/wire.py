"""
The few pieces of protobuf's wire format that events are put together from.

The envelope of an event is the same for every track of a link but for five fixed-width fields, and the track inside is
the box's own bytes; so events are joined from pieces instead of built field by field, which costs a tenth. Tests parse
every event back with the generated classes.
"""

from __future__ import annotations

from struct import Struct

# Wire types of protobuf's encoding.
VARINT = 0
LENGTH_DELIMITED = 2


def varint(value: int) -> bytes:
    """
    A non-negative integer as base 128 varint.
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(field: int, wireType: int) -> bytes:
    """
    The key that stands before a field's value.
    """
    return varint(field << 3 | wireType)


def lengthDelimited(field: int, value: bytes) -> bytes:
    """
    A string, bytes or message field.
    """
    return tag(field, LENGTH_DELIMITED) + varint(len(value)) + value


FIXED = Struct("<BQ")
"""A fixed64 field: its key, below, and its value."""

NAME_AND_TIME = Struct("<QBQBQ")
"""
What differs between the events of one batch, in one go: the id's value (its key stands before it), event time, index.
"""

TRACK = tag(16, LENGTH_DELIMITED)
"""The key of a track; its length comes next."""

UNINDEXED = tag(12, VARINT) + b"\x01"
MISSING_BEFORE = tag(13, VARINT)

KEY_ID = 1 << 3 | 1
KEY_EVENT_TIME = 8 << 3 | 1
KEY_INGEST_TIME = 9 << 3 | 1
KEY_STREAM = 10 << 3 | 1
KEY_INDEX = 11 << 3 | 1
