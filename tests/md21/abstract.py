"""
PDUs as the general codecs know them: an alternative's name and its components, as C{proto/md21.asn1} spells them.

What L{binaryserver.md21.codec} works out at once, the columns above all, is worked out here a second time the plain
way, a value at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from binaryserver.errors import MalformedPacket
from binaryserver.md21 import values

MODULE = Path(__file__).resolve().parent.parent.parent / "proto" / "md21.asn1"

Abstract: TypeAlias = tuple[str, Any]
"""A CHOICE: the alternative's name and its value; a SEQUENCE is a dict, an ENUMERATED its name."""

WANT_ACK = ("none", "all0", "all10", "all30", "all60", "all100", "all200", "all300")


@cache
def asn1tools() -> Any:
    """
    The module, compiled by asn1tools.
    """
    import asn1tools

    return asn1tools.compile_files(str(MODULE), "uper")


def spell(value: IntEnum) -> str:
    """
    The module's name of an enumeration's value: C{TLS_ACCEPTED} is C{tlsAccepted} there.
    """
    if type(value) is values.WantAck:
        return value.name.lower().replace("_", "")
    first, *rest = value.name.lower().split("_")
    return first + "".join(word.capitalize() for word in rest)


def _milliseconds(time: int | None) -> int | None:
    return None if time is None else time - 1_262_304_000_000


def toAbstract(pdu: values.Pdu) -> Abstract:
    """
    Any PDU but C{trackingdata}, which has more than one encoding: see L{fromTrackingData}.
    """
    match pdu:
        case values.Transport():
            return "transport", _plain(pdu)
        case values.Header():
            return "header", _plain(pdu)
        case values.HeaderAck():
            return "headerack", _plain(pdu)
        case values.Disconnect():
            return "disconnect", _plain(pdu)
        case values.Ping():
            return "ping", _plain(pdu)
        case values.BaseValues():
            return "basevalue", ("values", _plain(pdu))
        case values.BaseValueAck():
            return "basevalue", ("ack", _plain(pdu))
        case values.Message():
            recordedAt, expiresAt = _milliseconds(pdu.recordedAt), _milliseconds(pdu.expiresAt)
            return "message", _plain(pdu._replace(recordedAt=recordedAt, expiresAt=expiresAt))
        case values.MessageAck():
            return "messageack", _plain(pdu)
        case values.ReconfigureMsg():
            return "reconfiguremsg", _plain(pdu)
        case values.TrackingAck():
            return "trackingack", {}
        case values.ReconfigureTrk():
            return "reconfiguretrk", _plain(pdu)
        case values.FileStart():
            return "filestart", _plain(pdu)
        case values.FilePart():
            return "filepart", _plain(pdu)
        case values.FileAck():
            return "fileack", _plain(pdu)
    raise AssertionError(pdu)


def _plain(value: Any) -> Any:
    if isinstance(value, IntEnum):
        return spell(value)
    if hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items() if each is not None}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def fromTrackingData(block: Mapping[str, Any]) -> values.TrackingData:
    """
    The tracks of a C{trackingdata}.

    @raise MalformedPacket: it breaks a rule that the module gives in words
    """
    count = len(block["times"])
    rows: list[list[tuple[int, values.FieldValue]]] = [[] for _ in range(count)]
    numbers = [column["number"] for column in block["fields"]]
    _rule(numbers == sorted(numbers))
    text = 0
    for column in block["fields"]:
        kind, given = column["values"]
        marked = "marks" in column
        marks = column.get("marks", ["given"] * count)
        _rule(len(marks) == count and marks.count("given") == len(given))
        left = list(given)
        last = None
        for row, mark in zip(rows, marks, strict=True):
            if mark == "none":
                continue
            if mark == "given":
                last = left.pop(0)
                if kind == "doubles":
                    last = struct.unpack(">d", last)[0]
            if last is None:
                raise MalformedPacket("same as nothing")
            if marked:
                text += len(last) if isinstance(last, str | bytes) else 0
            _rule(column["number"] not in [number for number, _ in row])
            row.append((column["number"], last))
    _rule(text <= 262_144)
    tracks = []
    places = _places(block.get("position"), count)
    for difference, (latitude, longitude), row in zip(block["times"], places, rows, strict=True):
        time = (1_262_304_000 + block["baseTime"] + difference) * 1000
        tracks.append(values.Track(time, latitude, longitude, tuple(row)))
    return values.TrackingData(values.WantAck(WANT_ACK.index(block["wantAck"])), tuple(tracks))


def _places(position: Mapping[str, Any] | None, count: int) -> list[tuple[int | None, int | None]]:
    if position is None:
        return [(None, None)] * count
    _rule(len(position["latitudes"]) == len(position["longitudes"]) == count)
    places: list[tuple[int | None, int | None]] = []
    base = position["baseLatitude"], position["baseLongitude"]
    before: tuple[int | None, int | None] = base
    for differences in zip(position["latitudes"], position["longitudes"], strict=True):
        place = tuple(
            last if difference == -32767 else None if difference == -32768 else start + difference
            for last, difference, start in zip(before, differences, base, strict=True)
        )
        before = place[0], place[1]
        places.append(before)
    for north, east in places:
        _rule((north is None) == (east is None))
        _rule(abs(north or 0) <= 9_000_000 and abs(east or 0) <= 18_000_000)
    return places


def _rule(holds: bool) -> None:
    if not holds:
        raise MalformedPacket("a rule of the module")


def block(**components: Any) -> bytes:
    """
    A C{trackingdata} of asn1tools: one track, and what is given.
    """
    return bytes(
        asn1tools().encode(
            "MD-Data", ("trackingdata", {"wantAck": "none", "baseTime": 0, "times": [0], "fields": [], **components})
        )
    )


def column(number: int, kind: str, cells: list[Any], **marks: Any) -> dict[str, Any]:
    """
    A C{FieldColumn} of asn1tools.
    """
    return {"number": number, "values": (kind, cells), **marks}


def fromBits(text: str) -> bytes:
    """
    A PDU of bits, spaces between them for the reader.
    """
    bits = text.replace(" ", "")
    bits += "0" * (-len(bits) % 8)
    return int("1" + bits, 2).to_bytes(len(bits) // 8 + 1)[1:]
