"""
Runs of PUBLISHes: those of one read whose batches go on, each where the one before it ends, parsed all at once.

Protobuf merges messages whose bytes are joined, so that one parse gives the tracks of many payloads, for a third of
what a parse of each costs. What it cannot tell any more is read from the bytes before: that each payload is of the
stream, at which index it begins, and where its tracks lie. That is done for the one shape that boxes send, both numbers
in front in their shortest form and then nothing but tracks; every other shape is for the codec to judge alone, and so
is each of the payloads when one of them does not parse.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError

from binaryserver.mqtt.events import Event, Publish
from binaryserver.proto.md30_pb2 import Track, TrackBatch
from binaryserver.transcode.wire import LENGTH_DELIMITED, VARINT, tag, varint

(_TRACKS_KEY,) = tag(TrackBatch.TRACKS_FIELD_NUMBER, LENGTH_DELIMITED)


def streamHead(stream: int) -> bytes:
    """
    What the payloads of a stream begin with: all up to the value of C{first_index}.
    """
    return (
        tag(TrackBatch.STREAM_FIELD_NUMBER, VARINT) + varint(stream) + tag(TrackBatch.FIRST_INDEX_FIELD_NUMBER, VARINT)
    )


class Run:
    """
    What L{readRun} found.

    @ivar payloads: of the PUBLISHes, in their order
    @ivar packetIds: likewise
    @ivar ends: how many tracks there are up to the end of each payload
    @ivar bodies: the bytes of each track. They are slices of the payloads, and yet what a parse of the payloads takes
        for its tracks: in protobuf's wire format there is but one way to cut a message into its fields.
    """

    __slots__ = ("bodies", "ends", "packetIds", "payloads")

    def __init__(self, payloads: list[bytes], packetIds: list[int], ends: list[int], bodies: list[bytes]) -> None:
        self.payloads = payloads
        self.packetIds = packetIds
        self.ends = ends
        self.bodies = bodies

    def parse(self) -> Sequence[Track] | None:
        """
        The tracks, one for each of C{bodies}; L{None}: there is a payload that cannot be parsed.
        """
        payloads = self.payloads
        try:
            return TrackBatch.FromString(payloads[0] if len(payloads) == 1 else b"".join(payloads)).tracks[:]
        except DecodeError:
            return None


def readRun(
    publishes: Sequence[Event], position: int, head: bytes, index: int, most: int, mostBytes: int, mostTracks: int
) -> Run:
    """
    Gather the PUBLISHes from C{position} on that go on in one stream: same topic, QoS 1, usual shape, next index.

    @param publishes: what came in one read; at C{position} stands a L{Publish}
    @param head: the L{streamHead} of the stream
    @param index: that the first of them must have
    @param most: PUBLISHes
    @param mostBytes: payload bytes after which no further PUBLISH is gathered
    @return: perhaps empty
    """
    bodies: list[bytes] = []
    ends: list[int] = []
    append = bodies.append
    first: Any = publishes[position]
    topic = first[0]
    at = len(head)
    # The index's varint: its first byte apart, since the others stay the same for 128 indices.
    upper = -1
    mark = begin = 0
    rest = b""
    size = count = 0
    for event in islice(publishes, position, position + most):
        if type(event) is not Publish or event[0] != topic or event[2] != 1:
            break
        payload = event[1]
        if index >> 7 != upper:
            upper = index >> 7
            mark, rest = (0x80, varint(upper)) if upper else (0, b"")
            begin = at + 1 + len(rest)
        end = len(payload)
        if (
            end <= begin
            or payload[at] != index & 0x7F | mark
            or not payload.startswith(head)
            or not payload.startswith(rest, at + 1)
        ):
            break
        here = begin
        while here + 1 < end and payload[here] == _TRACKS_KEY:
            length = payload[here + 1]
            here += 2
            if length > 127:
                if here == end or payload[here] > 127:
                    # Cut off, or a track of more than 16 KiB.
                    here = 0
                    break
                length += (payload[here] << 7) - 128
                here += 1
            append(payload[here : here + length])
            here += length
        total = len(bodies)
        if here != end or total > mostTracks:
            # It goes on with something else than tracks, or beyond its end; or it is too much.
            del bodies[count:]
            break
        index += total - count
        count = total
        ends.append(count)
        size += end
        if size >= mostBytes:
            break
    taken: Any = publishes[position : position + len(ends)]
    return Run([event[1] for event in taken], [event[3] for event in taken], ends, bodies)
