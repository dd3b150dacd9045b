"""
What hypothesis draws: PDUs as values, and blocks of tracks as columns.
"""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from binaryserver.md21 import values
from tests.md21.abstract import WANT_ACK

_U16 = st.integers(0, 0xFFFF)
_U32 = st.integers(0, 0xFFFFFFFF)
_U64 = st.integers(0, (1 << 64) - 1)
_NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=255)
_TOKENS = st.binary(min_size=32, max_size=32)
_TIMES = st.integers(values.EPOCH_MS, values.EPOCH_MS + (1 << 42) - 1)
_WANT_ACKS = st.sampled_from(values.WantAck)
_CHANNELS = st.builds(values.Channel, st.integers(1, 255), _NAMES)


def _transport(token: bytes, sequence: int, acks: list[int], pdu: bytes) -> values.Transport:
    return values.Transport(token, sequence, tuple(acks), pdu if sequence else None)


def _message(channel: int, name: str, **rest: Any) -> values.Message:
    return values.Message(channel=channel, channelName=None if channel else name, **rest)


def _tuples(elements: st.SearchStrategy[Any], low: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.one_of(st.lists(elements, min_size=low, max_size=4), st.lists(elements, min_size=255, max_size=255)).map(
        tuple
    )


BUT_TRACKS: dict[type, st.SearchStrategy[Any]] = {
    values.Transport: st.builds(
        _transport, _TOKENS, _U32, st.lists(_U32, max_size=31), st.binary(min_size=1, max_size=300)
    ),
    values.Header: st.builds(
        values.Header,
        st.integers(0, 255),
        _NAMES,
        _NAMES,
        st.none() | _TEXTS,
        st.booleans(),
        st.none() | st.sampled_from(values.Reason),
        st.builds(values.Capabilities, st.booleans(), st.booleans(), st.booleans()),
    ),
    values.HeaderAck: st.builds(
        values.HeaderAck,
        st.sampled_from(values.HeaderStatus),
        st.none() | st.builds(values.UdpOffer, _NAMES, st.integers(1, 65_535), _TOKENS),
    ),
    values.Disconnect: st.builds(values.Disconnect, st.sampled_from(values.Reason)),
    values.Ping: st.builds(values.Ping, _U16, st.booleans()),
    values.BaseValues: st.builds(values.BaseValues, _U32, _tuples(_CHANNELS), _WANT_ACKS, _U16),
    values.BaseValueAck: st.builds(values.BaseValueAck, _U32),
    values.Message: st.builds(
        _message,
        st.integers(0, 255),
        _NAMES,
        temporaryId=_U16,
        payload=st.binary(max_size=300),
        recordedAt=st.none() | _TIMES,
        expiresAt=st.none() | _TIMES,
        serverId=st.none() | _U64,
        wantAck=st.booleans(),
    ),
    values.MessageAck: st.builds(
        values.MessageAck, st.sampled_from(values.MessageStatus), _U16, st.none() | _U64, st.booleans()
    ),
    values.ReconfigureMsg: st.builds(values.ReconfigureMsg, _tuples(_CHANNELS, 1)),
    values.TrackingAck: st.builds(values.TrackingAck),
    values.ReconfigureTrk: st.builds(values.ReconfigureTrk, _WANT_ACKS, st.none() | st.integers(0, 86_400)),
    values.FileStart: st.builds(values.FileStart, _U16, _TEXTS.filter(bool), _U32, _TOKENS),
    values.FilePart: st.builds(values.FilePart, _U16, _U32, st.binary(min_size=1, max_size=300)),
    values.FileAck: st.builds(values.FileAck, _U16, _U32, st.sampled_from(values.FileStatus)),
}
"""Of each type of PDU but L{values.TrackingData}."""

_FIELD_VALUES = (
    st.integers(-128, 127)
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.booleans()
    | _TEXTS
    | st.floats(allow_nan=False)
    | st.binary(max_size=255)
)

_FIELDS: tuple[st.SearchStrategy[values.FieldValue], ...] = (
    st.integers(-200, 200),
    st.booleans(),
    _TEXTS,
    _FIELD_VALUES,
)


@st.composite
def _tracks(draw: st.DrawFn) -> tuple[values.Track, ...]:
    middle = draw(st.integers(0, 0xFFFFFFFF))
    north = draw(st.integers(-9_000_000, 9_000_000 - 65_533))
    east = draw(st.integers(-18_000_000, 18_000_000 - 65_533))
    numbers = sorted(draw(st.lists(_U16, max_size=12, unique=True)))
    # most fields keep their kind over the tracks of a block
    kinds = [draw(st.sampled_from(_FIELDS)) for _ in numbers]
    tracks = []
    for _ in range(draw(st.sampled_from([1, 1, 2, 3, 5, 20]))):
        placed = draw(st.booleans())
        fields = tuple(
            (number, draw(kind)) for number, kind in zip(numbers, kinds, strict=True) if draw(st.integers(0, 3))
        )
        tracks.append(
            values.Track(
                (values.EPOCH + middle + draw(st.integers(-32_768, 32_767))) * 1000,
                north + draw(st.integers(0, 65_533)) if placed else None,
                east + draw(st.integers(0, 65_533)) if placed else None,
                fields,
            )
        )
    return tuple(tracks)


BLOCKS = st.builds(values.TrackingData, _WANT_ACKS, _tracks())
"""Blocks of tracks as values."""

PDUS = st.one_of(BLOCKS, *BUT_TRACKS.values())

_KINDS: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.integers(-(1 << 7), (1 << 7) - 1),
    "int16": st.integers(-(1 << 15), (1 << 15) - 1),
    "int32": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64": st.integers(-(1 << 63), (1 << 63) - 1),
    "bools": st.booleans(),
    "strings": _TEXTS,
    "doubles": st.floats(allow_nan=False).map(lambda value: struct.pack(">d", value)),
    "bytes": st.binary(max_size=255),
}


def _exactly(elements: st.SearchStrategy[Any], count: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(elements, min_size=count, max_size=count)


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Any]:
    """
    A C{trackingdata} as a general codec takes it; some break the rules that the module gives in words.
    """
    count = draw(st.sampled_from([1, 2, 3, 7, 8, 20, 33]))
    differences = st.integers(-32_768, 32_767)
    block: dict[str, Any] = {
        "wantAck": draw(st.sampled_from(WANT_ACK)),
        "baseTime": draw(_U32),
        "times": draw(_exactly(differences, count)),
        "fields": [],
    }
    if draw(st.booleans()):
        block["position"] = {
            "baseLatitude": draw(st.integers(-9_000_000, 9_000_000)),
            "baseLongitude": draw(st.integers(-18_000_000, 18_000_000)),
        }
        places = st.tuples(differences, differences)
        sentinels = st.sampled_from([(-32_768, -32_768), (-32_767, -32_767), (0, 0)])
        drawn = draw(_exactly(draw(st.sampled_from([places, sentinels, places | sentinels])), count))
        block["position"]["latitudes"] = [north for north, _ in drawn]
        block["position"]["longitudes"] = [east for _, east in drawn]
    for number in sorted(draw(st.lists(_U16, max_size=8))):
        kind = draw(st.sampled_from(sorted(_KINDS)))
        column: dict[str, Any] = {"number": number}
        given = count
        if draw(st.booleans()):
            marks = draw(_exactly(st.sampled_from(["given", "given", "none", "same"]), count))
            if "given" not in marks:
                marks[0] = "given"
            column["marks"] = marks
            given = marks.count("given")
        column["values"] = (kind, draw(_exactly(_KINDS[kind], given)))
        block["fields"].append(column)
    return block
