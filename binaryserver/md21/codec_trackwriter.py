"""
The writing of blocks of tracks: what L{binaryserver.md21.codec_tracks} reads. For boxes; the gateway only reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

from binaryserver.md21.codec_tracks import (
    BOOLS,
    BYTES,
    DOUBLES,
    GIVEN,
    INT16,
    MAX_COLUMNS,
    MAX_LATITUDE,
    MAX_LONGITUDE,
    MAX_TEXT,
    NO_POSITION,
    NONE,
    SAME,
    SAME_POSITION,
    STRINGS,
    columnsOf,
)
from binaryserver.md21.uper import Writer, prefixed
from binaryserver.md21.values import EPOCH, MAX_TRACKS, FieldValue, Track, TrackingData

_KINDS: Final[dict[type, int]] = {int: 0, bool: BOOLS, str: STRINGS, float: DOUBLES, bytes: BYTES}

_INT_SIZES: Final = (8, 16, 32, 64)
"""Bits of an integer, by the kind's number."""

_Cells = list[FieldValue | None]


def writeTrackingData(writer: Writer, block: TrackingData) -> None:
    """
    Write a C{TrackingData}.

    @raise ValueError: no track or more than 256; no whole seconds; times or positions too far apart for one block; half
        a position or one that is not on Earth; more than 127 columns; fields that are not in the order of their
        numbers, or one twice; a value that no kind of column holds; more text than a block may hold
    """
    count = len(block.tracks)
    if not 1 <= count <= MAX_TRACKS:
        raise ValueError(f"a block of {count} tracks")
    positioned = any(track.latitude is not None or track.longitude is not None for track in block.tracks)
    writer.flag(False)
    writer.flag(positioned)
    writer.bits(block.wantAck, 3)
    _writeTimes(writer, [track.recordedAt for track in block.tracks])
    if positioned:
        _writePositions(writer, block.tracks)
    columns = _gather(block.tracks)
    writer.ranged(len(columns), 0, MAX_COLUMNS)
    text = 0
    for (number, kind), cells in columns:
        if _writeColumn(writer, number, kind, cells):
            text += sum(len(cell) for cell in cells if isinstance(cell, str | bytes))
    if text > MAX_TEXT:
        raise ValueError(f"a block with {text} characters and bytes in marked columns")


def _writeTimes(writer: Writer, times: Sequence[int]) -> None:
    if any(time % 1000 for time in times):
        raise ValueError("MD21's tracks are of whole seconds")
    seconds = [time // 1000 - EPOCH for time in times]
    # a time may be before the epoch, or after the last that the base can be, by as much as a difference can
    base = min(max((min(seconds) + max(seconds) + 1) // 2, 0), 0xFFFFFFFF)
    writer.ranged(base, 0, 0xFFFFFFFF)
    _writeDifferences(writer, [second - base for second in seconds])


def _writePositions(writer: Writer, tracks: Sequence[Track]) -> None:
    if any((track.latitude is None) != (track.longitude is None) for track in tracks):
        raise ValueError("half a position")
    columns = (
        ([track.latitude for track in tracks], MAX_LATITUDE),
        ([track.longitude for track in tracks], MAX_LONGITUDE),
    )
    differences: list[list[int]] = []
    for column, most in columns:
        there = [value for value in column if value is not None]
        base = (min(there) + max(there)) // 2
        if min(there) < -most or max(there) > most:
            raise ValueError("a position that is not on Earth")
        if min(there) - base <= SAME_POSITION:
            raise ValueError("positions too far apart for one block")
        writer.ranged(base, -most, most)
        differences.append([NO_POSITION if value is None else value - base for value in column])
    for each in differences:
        _writeDifferences(writer, each)


def _writeDifferences(writer: Writer, differences: Sequence[int]) -> None:
    writer.bits(len(differences) - 1, 8)
    writer.bits(*_packNumbers(INT16, differences))


def _gather(tracks: Sequence[Track]) -> list[tuple[tuple[int, int], _Cells]]:
    # the columns by (number, kind): a cell is None where a track does not have the field
    columns: dict[tuple[int, int], _Cells] = {}
    for position, track in enumerate(tracks):
        last = -1
        for number, value in track.fields:
            if not last < number <= 0xFFFF:
                raise ValueError("fields that are not in the order of their numbers, or one twice")
            last = number
            kind = _KINDS.get(type(value))
            if kind is None:
                raise ValueError(f"a field that is a {type(value).__name__}")
            cells = columns.get((number, kind))
            if cells is None:
                cells = columns[number, kind] = [None] * len(tracks)
            cells[position] = value
    return sorted(columns.items(), key=lambda item: item[0])


def _writeColumn(writer: Writer, number: int, kind: int, cells: Sequence[FieldValue | None]) -> bool:
    """
    @return: whether it has marks
    """
    there = [cell for cell in cells if cell is not None]
    if kind == 0:
        kind = _narrowest(there)
    marks, given = _mark(cells, kind)
    values, size = _pack(kind, given)
    if len(there) == len(cells):
        whole, wholeSize = _pack(kind, there)
        # marks are worth their bits where enough values repeat
        if wholeSize <= size + 8 + 2 * len(cells):
            writer.bits(number << 12 | kind << 8 | len(there) - 1, 29)
            writer.bits(whole, wholeSize)
            return False
    writer.bits(1 << 24 | number << 8 | len(marks) - 1, 25)
    for mark in marks:
        writer.bits(mark, 2)
    writer.bits(kind << 8 | len(given) - 1, 12)
    writer.bits(values, size)
    return True


def _mark(cells: Iterable[FieldValue | None], kind: int) -> tuple[list[int], list[FieldValue]]:
    marks: list[int] = []
    given: list[FieldValue] = []
    last: FieldValue | None = None
    for cell in cells:
        # doubles by their bytes: 0.0 equals -0.0, and nan nothing
        same = struct.pack(">d", cell) if cell is not None and kind == DOUBLES else cell
        if cell is None or same is None:
            marks.append(NONE)
        elif same == last:
            marks.append(SAME)
        else:
            marks.append(GIVEN)
            given.append(cell)
            last = same
    return marks, given


def _narrowest(column: Iterable[Any]) -> int:
    bits = max((value if value >= 0 else ~value).bit_length() for value in column) + 1
    for kind, size in enumerate(_INT_SIZES):
        if bits <= size:
            return kind
    raise ValueError("an integer of more than 64 bits")


def _pack(kind: int, column: Sequence[Any]) -> tuple[int, int]:
    # the bits of some values, and how many
    if kind == BOOLS:
        return int("".join("1" if value else "0" for value in column), 2), len(column)
    if kind not in (STRINGS, BYTES):
        return _packNumbers(kind, column)
    if max(map(len, column)) > 255:
        raise ValueError("a field of more than 255 characters or bytes")
    if kind == STRINGS:
        octets = b"".join(prefixed(value.encode()) for value in column)
    else:
        octets = b"".join(bytes((len(value),)) + value for value in column)
    return int.from_bytes(octets), len(octets) * 8


def _packNumbers(kind: int, column: Sequence[Any]) -> tuple[int, int]:
    packing = columnsOf(len(column))[kind]
    assert packing is not None
    try:
        octets = packing.struct.pack(*column)
    except struct.error as error:
        raise ValueError("times or positions too far apart for one block") from error
    return int.from_bytes(octets) ^ packing.signs, packing.bits
