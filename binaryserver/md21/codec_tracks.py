"""
The reading of blocks of tracks, MD21's hot path: columns in, tracks out.

A column of numbers is one slice of the PDU, one shift and one C{struct} call however many tracks there are, and C{zip}
turns the columns into tracks. A loop over single values is left for text and for columns with marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, repeat
from struct import Struct
from typing import Any, Final, NamedTuple

from binaryserver.md21.uper import SHORT, Reader, longLength, refuse
from binaryserver.md21.values import EPOCH, FieldValue, Track, TrackingData, WantAck

NO_POSITION: Final = -32_768
"""The difference of a latitude or longitude that is not there."""

SAME_POSITION: Final = -32_767
"""The difference of a latitude or longitude that is as the track before has it."""

MAX_LATITUDE: Final = 9_000_000
MAX_LONGITUDE: Final = 18_000_000

MAX_TEXT: Final = 262_144
"""Characters and bytes that the marked columns of a block hold when they are written out."""

MAX_COLUMNS: Final = 127

# The marks by their numbers.
GIVEN: Final = 0
NONE: Final = 1
SAME: Final = 2

# The kinds of values by their numbers, those that the code names.
INT16: Final = 1
BOOLS: Final = 4
STRINGS: Final = 5
DOUBLES: Final = 6
BYTES: Final = 7

_CODES: Final = ("b", "h", "i", "q", None, None, "d", None)
"""By the kind's number, C{struct}'s letter for its values."""

_WANT_ACK: Final = tuple(WantAck)

_Pair = tuple[int, FieldValue]


class Packing(NamedTuple):
    """
    How a column of some count of numbers is read and written.

    @ivar bits: how many it has
    @ivar size: the same in bytes
    @ivar mask: what cuts off the bits before it
    @ivar signs: what turns each number's offset from the least of its kind into a two's complement, and back
    @ivar struct: its numbers
    """

    bits: int
    size: int
    mask: int
    signs: int
    struct: Struct


@cache
def columnsOf(count: int) -> tuple[Packing | None, ...]:
    """
    By the kind's number, the columns of so many values; C{None} for what is no column of numbers.
    """
    return tuple(None if code is None else _packing(code, count) for code in _CODES)


def _packing(code: str, count: int) -> Packing:
    struct = Struct(f">{count}{code}")
    signs = 0 if code == "d" else int.from_bytes((b"\x80" + bytes(struct.size // count - 1)) * count)
    return Packing(struct.size * 8, struct.size, (1 << struct.size * 8) - 1, signs, struct)


@cache
def _bitPairs() -> tuple[tuple[int, ...], ...]:
    # a byte as four numbers of 2 bits
    return tuple((byte >> 6, byte >> 4 & 3, byte >> 2 & 3, byte & 3) for byte in range(256))


@cache
def _bitFlags() -> tuple[tuple[bool, ...], ...]:
    # a byte as eight booleans
    return tuple(tuple(byte << shift & 0x80 != 0 for shift in range(8)) for byte in range(256))


def readTrackingData(reader: Reader) -> TrackingData:
    """
    Read a C{TrackingData}.

    @raise MalformedPacket: it is none
    """
    # extension bit, optional position, wantAck (3), baseTime (32), count of times (8)
    head = reader.bits(45)
    count = (head & 0xFF) + 1
    base = (head >> 8 & 0xFFFFFFFF) + EPOCH
    times = [(base + difference) * 1000 for difference in _differences(reader, count)]
    nowhere: list[int | None] = [None] * count
    latitudes, longitudes = _readPositions(reader, count) if head >> 43 & 1 else (nowhere, nowhere)
    rows = _readFields(reader, count)
    if head >> 44:
        reader.skipExtensions()
    return TrackingData(_WANT_ACK[head >> 40 & 7], tuple(map(Track, times, latitudes, longitudes, rows)))


def _differences(reader: Reader, count: int) -> tuple[int, ...]:
    column = columnsOf(count)[INT16]
    assert column is not None
    return column.struct.unpack((reader.bits(column.bits) ^ column.signs).to_bytes(column.size))


def _readPositions(reader: Reader, count: int) -> tuple[list[int | None], list[int | None]]:
    # baseLatitude (25), baseLongitude (26), count of latitudes (8)
    head = reader.bits(59)
    latitude = (head >> 34) - MAX_LATITUDE
    longitude = (head >> 8 & 0x3FFFFFF) - MAX_LONGITUDE
    if latitude > MAX_LATITUDE or longitude > MAX_LONGITUDE:
        refuse("a base position that is not on Earth")
    north = _differences(reader, count)
    if (head & 0xFF) + 1 != count or reader.bits(8) + 1 != count:
        refuse("a column that is not as long as its block")
    east = _differences(reader, count)
    if min(north) > SAME_POSITION and min(east) > SAME_POSITION:
        _bounded(latitude, north, MAX_LATITUDE)
        _bounded(longitude, east, MAX_LONGITUDE)
        return [latitude + difference for difference in north], [longitude + difference for difference in east]
    latitudes = _readSentinels(latitude, north, MAX_LATITUDE)
    longitudes = _readSentinels(longitude, east, MAX_LONGITUDE)
    for one, other in zip(latitudes, longitudes, strict=True):
        if (one is None) != (other is None):
            refuse("half a position")
    return latitudes, longitudes


def _bounded(base: int, differences: Sequence[int], most: int) -> None:
    if base + min(differences) < -most or base + max(differences) > most:
        refuse("a position that is not on Earth")


def _readSentinels(base: int, differences: Sequence[int], most: int) -> list[int | None]:
    found: list[int | None] = []
    last: int | None = base
    for difference in differences:
        if difference == NO_POSITION:
            last = None
        elif difference != SAME_POSITION:
            last = base + difference
            if not -most <= last <= most:
                refuse("a position that is not on Earth")
        found.append(last)
    return found


def _readFields(reader: Reader, count: int) -> Iterator[tuple[_Pair, ...]]:
    heads = reader.bits(7)
    if not heads:
        return repeat((), count)
    data = reader.data
    end = reader.end
    kinds = columnsOf(count)
    numbers: list[int] = []
    columns: list[Iterable[_Pair | None]] = []
    marked: list[list[_Pair | None]] = []
    for _ in range(heads):
        # What L{Reader.bits} does, in place: optional marks (1), number (16), and without marks: the extension bit and
        # the number of the kind (4), count of values (8).
        start = reader.position
        stop = start + 29
        head = int.from_bytes(data[start >> 3 : (stop + 7) >> 3]) >> (-stop & 7) & 0x1FFFFFFF
        number = head >> 12 & 0xFFFF
        numbers.append(number)
        if head >> 28:
            reader.position = start + 17
            marked.append(_readMarked(reader, number, count))
            columns.append(marked[-1])
            continue
        if stop > end or head & 0xFF != count - 1:
            refuse("a column that is not as long as its block")
        kind = head >> 8 & 0xF
        column = kinds[kind & 7]
        if column is None or kind > 7:
            reader.position = stop
            columns.append(zip(repeat(number), _readValues(reader, kind, count), strict=False))
            continue
        bits, size, mask, signs, struct = column
        start = stop
        reader.position = stop = start + bits
        if stop > end:
            refuse("it ends too soon")
        packed = int.from_bytes(data[start >> 3 : (stop + 7) >> 3]) >> (-stop & 7) & mask ^ signs
        columns.append(zip(repeat(number), struct.unpack(packed.to_bytes(size)), strict=False))
    rows: Iterator[Any] = zip(*columns, strict=True)
    if marked:
        _boundText(marked)
        rows = map(tuple, map(filter, repeat(None), rows))
    return rows if _ascending(numbers) else _checked(rows)


def _readMarked(reader: Reader, number: int, count: int) -> list[_Pair | None]:
    marks = _readMarks(reader, count)
    kind = reader.bits(4)
    given = reader.bits(8) + 1
    if given != marks.count(GIVEN):
        refuse("a column whose values are more or fewer than its marks say")
    following = iter(_readValues(reader, kind, given))
    pairs: list[_Pair | None] = []
    last: _Pair | None = None
    for mark in marks:
        if mark == NONE:
            pairs.append(None)
            continue
        if mark == GIVEN:
            last = (number, next(following))
        elif last is None:
            refuse("a field as before, where it was not before")
        pairs.append(last)
    return pairs


def _boundText(columns: Iterable[Iterable[_Pair | None]]) -> None:
    # what `same` repeats costs no bytes on the way, but does in the events
    text = sum(
        len(pair[1]) for column in columns for pair in column if pair is not None and isinstance(pair[1], str | bytes)
    )
    if text > MAX_TEXT:
        refuse("a block that holds too much text when it is written out")


def _ascending(numbers: Sequence[int]) -> bool:
    """
    @return: whether no number comes twice
    @raise MalformedPacket: their order is another
    """
    if numbers != sorted(numbers):
        refuse("columns that are not in the order of their numbers")
    return len(set(numbers)) == len(numbers)


def _checked(rows: Iterable[tuple[_Pair, ...]]) -> Iterator[tuple[_Pair, ...]]:
    for row in rows:
        if len({number for number, _ in row}) != len(row):
            refuse("a track that has a field twice")
        yield row


def _readMarks(reader: Reader, count: int) -> list[int]:
    if reader.bits(8) + 1 != count:
        refuse("marks that are not as many as the tracks")
    octets = (count + 3) >> 2
    packed = reader.bits(2 * count) << (octets * 8 - 2 * count)
    marks = list(chain.from_iterable(map(_bitPairs().__getitem__, packed.to_bytes(octets))))[:count]
    if 3 in marks:
        refuse("a mark that there is not")
    return marks


def _readValues(reader: Reader, kind: int, count: int) -> Sequence[FieldValue]:
    if kind > BYTES:
        refuse("values of a kind of a later version")
    column = columnsOf(count)[kind]
    if column is not None:
        return column.struct.unpack((reader.bits(column.bits) ^ column.signs).to_bytes(column.size))
    if kind == BOOLS:
        octets = (count + 7) >> 3
        packed = reader.bits(count) << (octets * 8 - count)
        return list(chain.from_iterable(map(_bitFlags().__getitem__, packed.to_bytes(octets))))[:count]
    return _readStrings(reader, count) if kind == STRINGS else _readBytes(reader, count)


def _readStrings(reader: Reader, count: int) -> list[str]:
    octets = reader.aligned()
    found: list[str] = []
    at = 0
    try:
        for _ in range(count):
            size = octets[at]
            at += 1
            if size >= SHORT:
                size = longLength(size, octets[at])
                at += 1
            found.append(octets[at : at + size].decode())
            at += size
    except IndexError:
        refuse("it ends too soon")
    except UnicodeDecodeError:
        refuse("text that is not UTF-8")
    if max(map(len, found)) > 255:
        refuse("text of a length that is not allowed")
    _advance(reader, at)
    return found


def _readBytes(reader: Reader, count: int) -> list[bytes]:
    octets = reader.aligned()
    found: list[bytes] = []
    at = 0
    try:
        for _ in range(count):
            end = at + 1 + octets[at]
            found.append(octets[at + 1 : end])
            at = end
    except IndexError:
        refuse("it ends too soon")
    _advance(reader, at)
    return found


def _advance(reader: Reader, octets: int) -> None:
    reader.position += octets * 8
    # slices of bytes do not tell that they end too soon
    if reader.position > reader.end:
        refuse("it ends too soon")
