"""
Tracks as lines of CSV, for boxes that have no protobuf::

    7,12
    1790000000000,48.8566,2.3522,235=52,73=384
    1790000010000,,,235=53,100="a, b"

The first line has the stream and the index of the first track; each other one is a track: when it was recorded (Unix
ms), latitude and longitude (degrees; both empty: it had no position), and any number of fields, C{NUMBER=VALUE}. A
value is a whole number, a number with a point, C{true} or C{false}, or else a text.
"""

from __future__ import annotations

import csv
import io
import re

from twisted.plugin import IPlugin
from zope.interface import implementer

from binaryserver.errors import RejectedData
from binaryserver.interfaces import IEventCodec
from binaryserver.proto.md30_pb2 import Track, TrackBatch, Value

_WHOLE = re.compile(r"-?[0-9]{1,20}")
_DECIMAL = re.compile(r"-?[0-9]{1,20}\.[0-9]{1,20}")
_DEGREES = re.compile(r"-?[0-9]{1,3}(\.[0-9]{1,20})?")


@implementer(IPlugin, IEventCodec)
class CsvTracks:
    """
    The form, on the topics C{tc} and C{boxes/ASSET/tracks/csv}.
    """

    shortTopic = "tc"
    longTopic = "tracks/csv"
    # A line of ten fields takes 20 µs: 8 KiB delay other boxes by 2 ms.
    threadedAbove = 8192

    def decode(self, payload: bytes) -> tuple[TrackBatch, int]:
        """
        See L{IEventCodec.decode}.
        """
        batch = TrackBatch()
        lines = csv.reader(io.StringIO(_textOf(payload), newline=""), strict=True)
        try:
            for cells in lines:
                if lines.line_num == 1:
                    stream, firstIndex = cells
                    batch.stream, batch.first_index = _whole(stream), _whole(firstIndex)
                elif cells:
                    batch.tracks.append(_readTrack(cells))
        except (ValueError, csv.Error) as error:
            # Not in its own words: they repeat the value, which may be a position.
            raise RejectedData("DECODE", f"line {lines.line_num} is none of a CSV of tracks") from error
        return batch, 0


def _textOf(payload: bytes) -> str:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedData("DECODE", "the payload is not UTF-8") from error


def _readTrack(cells: list[str]) -> Track:
    """
    @raise ValueError: it is no track, or a number of it is larger than its place
    """
    recordedAt, latitude, longitude, *fields = cells
    track = Track(recorded_at=_whole(recordedAt))
    if latitude or longitude:
        track.latitude, track.longitude = _degrees(latitude), _degrees(longitude)
    for field in fields:
        number, _, value = field.partition("=")
        track.field_numbers.append(_whole(number))
        track.field_values.append(_value(value))
    return track


def _whole(text: str) -> int:
    if _WHOLE.fullmatch(text) is None:
        raise ValueError("no whole number")
    return int(text)


def _degrees(text: str) -> int:
    """
    @return: 1e-7 degrees
    """
    if _DEGREES.fullmatch(text) is None:
        raise ValueError("no degrees")
    return round(float(text) * 10_000_000)


def _value(text: str) -> Value:
    if _WHOLE.fullmatch(text):
        return Value(int_value=int(text))
    if _DECIMAL.fullmatch(text):
        return Value(double_value=float(text))
    if text in ("true", "false"):
        return Value(bool_value=text == "true")
    return Value(string_value=text)
