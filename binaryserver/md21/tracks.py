"""
MD21's tracks as MD30's: what both protocols' events are made of.

A track is put together from bytes and then parsed, which takes half as long as setting its fields: most values of most
fields come again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, Final

from binaryserver.md21.values import FieldValue
from binaryserver.md21.values import Track as BoxTrack
from binaryserver.proto.md30_pb2 import Track, Value
from binaryserver.transcode.wire import LENGTH_DELIMITED, VARINT, tag, varint

_DEGREES: Final = 100
"""MD21 counts 1e-5 degrees, MD30 1e-7."""

_RECORDED_AT: Final = tag(1, VARINT)
_LATITUDE: Final = tag(2, VARINT)
_LONGITUDE: Final = tag(3, VARINT)
_NUMBERS: Final = tag(4, LENGTH_DELIMITED)
_VALUE: Final = tag(5, LENGTH_DELIMITED)

_CACHED: Final = 8192
"""Values of one kind; a text has 255 characters at most."""

_INT: Final = tag(1, VARINT)
_DOUBLE: Final = Struct("<d")
_DOUBLE_HEAD: Final = _VALUE + b"\x09\x21"
"""The length of a C{Value}, and the key of its C{double_value}."""


def boxTracks(tracks: Sequence[BoxTrack]) -> list[Track]:
    """
    The tracks of a block, each equal to what an MD30 box would have sent. Fields come in the order of their numbers, so
    that equal tracks have equal bytes whatever block they came in.
    """
    made = []
    entries, parse = _ENTRIES, Track.FromString
    for recordedAt, latitude, longitude, fields in tracks:
        parts = [_RECORDED_AT, _varint(recordedAt)]
        if latitude is not None and longitude is not None:
            parts += (_LATITUDE, _zigzag(latitude * _DEGREES), _LONGITUDE, _zigzag(longitude * _DEGREES))
        if fields:
            numbers, values = zip(*fields, strict=True)
            parts.append(_numbers(numbers))
            parts += [entries[type(value)](value) for value in values]
        made.append(parse(b"".join(parts)))
    return made


def _zigzag(value: int) -> bytes:
    """
    A C{sint32} or C{sint64}.
    """
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    """
    What L{varint} gives; without its loop for the lengths that there are.
    """
    if value < 1 << 7:
        return bytes((value,))
    if value < 1 << 14:
        return bytes((value & 127 | 128, value >> 7))
    if value < 1 << 21:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14))
    if value >> 28 and value < 1 << 35:
        return bytes(
            (value & 127 | 128, value >> 7 & 127 | 128, value >> 14 & 127 | 128, value >> 21 & 127 | 128, value >> 28)
        )
    if value >> 35 and value < 1 << 42:
        return bytes(
            (
                value & 127 | 128,
                value >> 7 & 127 | 128,
                value >> 14 & 127 | 128,
                value >> 21 & 127 | 128,
                value >> 28 & 127 | 128,
                value >> 35,
            )
        )
    return varint(value)


@lru_cache(_CACHED)
def _numbers(numbers: tuple[int, ...]) -> bytes:
    """
    The whole of C{field_numbers}.
    """
    body = b"".join(map(varint, numbers))
    return _NUMBERS + varint(len(body)) + body


def _entry(value: Value) -> bytes:
    """
    One of C{field_values}.
    """
    body = value.SerializeToString()
    return _VALUE + varint(len(body)) + body


@lru_cache(_CACHED)
def _smallInt(value: int) -> bytes:
    return _anyInt(value)


def _int(value: int) -> bytes:
    # Counters and the like are large, and seldom the same again.
    return _smallInt(value) if -_CACHED // 4 < value < _CACHED // 2 else _anyInt(value)


def _anyInt(value: int) -> bytes:
    body = _zigzag(value)
    return _VALUE + bytes((1 + len(body),)) + _INT + body


def _bool(value: bool) -> bytes:
    return _TRUE if value else _FALSE


@lru_cache(_CACHED)
def _text(value: str) -> bytes:
    return _entry(Value(string_value=value))


def _double(value: float) -> bytes:
    # Not by a cache, in which 0.0 and -0.0 were one.
    return _DOUBLE_HEAD + _DOUBLE.pack(value)


@lru_cache(_CACHED)
def _bytes(value: bytes) -> bytes:
    return _entry(Value(bytes_value=value))


_TRUE: Final = _entry(Value(bool_value=True))
_FALSE: Final = _entry(Value(bool_value=False))
_ENTRIES: Final[dict[type[FieldValue], Callable[[Any], bytes]]] = {
    int: _int,
    bool: _bool,
    str: _text,
    float: _double,
    bytes: _bytes,
}
