"""
The two forms that simulated boxes send batches of tracks in: protobuf on C{t}, protobuf's JSON on C{tj}.

Written out by hand for speed, over what L{binaryserver.tools.box_route} has serialized in advance; the tests hold both
against protobuf's own reading.
"""

from __future__ import annotations

import zlib
from enum import Enum
from typing import Final

from binaryserver.tools.box_route import ROUTES, route, varint
from binaryserver.tools.box_store import Batch, Recording

_BATCH_TRACK: Final = b"\x1a"
_TRACK_TIME: Final = b"\x08"
_VALUE_HEAD: Final = tuple(b"\x2a" + bytes((length + 1,)) + b"\x08" for length in range(11))
"""By the length of the varint that follows: an int value, as the last one of a track."""


class PayloadForm(Enum):
    """
    The form of a batch on the wire; its value is the topic.
    """

    PROTO = "t"
    JSON = "tj"


def recordedAt(recording: Recording, index: int) -> int:
    """
    @return: Unix ms, when the track of that index was recorded: a step after the one before, give or take a quarter
    """
    # The low bits of a multiple of an odd constant hop about, and are the same for an index every time.
    return (
        recording.startMs
        + (index - recording.first) * recording.stepMs
        - (index * 167 & 255) * recording.stepMs // 1024
    )


def _timeVarint(ms: int) -> bytes:
    """
    C{varint(ms)}, at half the cost for all times that have six bytes: 1971 to 2109.
    """
    if not 1 << 35 <= ms < 1 << 42:
        return varint(ms)
    return (
        0x80_80_80_80_80
        | (ms & 0x7F)
        | (ms << 1 & 0x7F_00)
        | (ms << 2 & 0x7F_00_00)
        | (ms << 3 & 0x7F_00_00_00)
        | (ms << 4 & 0x7F_00_00_00_00)
        | (ms << 5 & 0x7F_00_00_00_00_00)
    ).to_bytes(6, "little")


class Tape:
    """
    Serializes the tracks of one box.
    """

    def __init__(self, asset: str, stream: int, form: PayloadForm) -> None:
        """
        @param asset: decides which route the box drives
        """
        self._route = route(zlib.crc32(asset.encode()) % ROUTES)
        self._stream = stream
        self._head = b"\x08" + varint(stream) + b"\x10"
        self.topic = form.value
        self.serialize = self._proto if form is PayloadForm.PROTO else self._json
        """C{(Batch) -> bytes}, an C{md30.v1.TrackBatch} in the form asked for."""

    def _proto(self, batch: Batch) -> bytes:
        first, end, recording = batch
        parts = [self._head + varint(first)]
        points = self._route.points
        protoPoints = self._route.protoPoints
        length = self._route.length
        size = len(points)
        stride = recording.stride
        place = recording.place + (first - recording.first) * stride
        for index in range(first, end):
            rounds, second = divmod(place, size)
            odometer = varint(2 * (rounds * length + points[second].odometer))
            time = _timeVarint(recordedAt(recording, index))
            rest = protoPoints[second]
            value = _VALUE_HEAD[len(odometer)]
            parts += (
                _BATCH_TRACK,
                varint(1 + len(time) + len(rest) + len(value) + len(odometer)),
                _TRACK_TIME,
                time,
                rest,
                value,
                odometer,
            )
            place += stride
        return b"".join(parts)

    def _json(self, batch: Batch) -> bytes:
        first, end, recording = batch
        tracks = []
        points = self._route.jsonPoints
        for index in range(first, end):
            place = recording.place + (index - recording.first) * recording.stride
            tracks.append(
                f'{{"recordedAt":"{recordedAt(recording, index)}",{points[place % len(points)]}'
                f',{{"intValue":"{self._route.odometer(place)}"}}]}}'
            )
        return f'{{"stream":"{self._stream}","firstIndex":"{first}","tracks":[{",".join(tracks)}]}}'.encode()
