"""
What one instance knows of one box while it has a link here, or data in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from binaryserver.model import KEPT_STREAMS, BoxKey, StreamMark
from binaryserver.session.fingerprints import Fingerprints
from binaryserver.session.index import Stream

if TYPE_CHECKING:
    from binaryserver.session.link import BoxLink


class BoxSession:
    """
    @ivar streams: by number, the one used last at the end
    @ivar fingerprints: of its tracks without an index; L{None}: it has sent none
    @ivar link: its present link, or L{None}
    @ivar linkEpoch: the highest epoch that this instance was given for it
    @ivar inFlight: how many batches of it the bus has not told of
    @ivar handoversAwaited: how many earlier owners have not yet said how far the box's data is durable
    """

    __slots__ = ("fingerprints", "handoversAwaited", "inFlight", "key", "link", "linkEpoch", "streams")

    def __init__(self, key: BoxKey) -> None:
        self.key = key
        self.streams: dict[int, Stream] = {}
        self.fingerprints: Fingerprints | None = None
        self.link: BoxLink | None = None
        self.linkEpoch = 0
        self.inFlight = 0
        self.handoversAwaited = 0

    @property
    def mayTake(self) -> bool:
        """
        Whether numbered data may be taken now. Not while an earlier owner may still commit some of it, nor while a
        stream that failed has batches in flight: what is new cannot be told from what is under way.
        """
        return not self.handoversAwaited and not any(stream.failed for stream in self.streams.values())

    def stream(self, number: int) -> Stream:
        """
        A stream of the box; made, where it is new. More than L{KEPT_STREAMS} settled ones are forgotten.
        """
        streams = self.streams
        stream = streams.pop(number, None)
        if stream is None:
            stream = Stream(number)
            if len(streams) >= KEPT_STREAMS:
                for old in [other for other in streams.values() if other.isSettled][: len(streams) - KEPT_STREAMS + 1]:
                    del streams[old.number]
        streams[number] = stream
        return stream

    def touch(self, stream: Stream) -> None:
        """
        Note a stream as the one used last.
        """
        if next(reversed(self.streams)) != stream.number:
            self.streams[stream.number] = self.streams.pop(stream.number)

    def merge(self, marks: Sequence[StreamMark]) -> None:
        """
        Take over what another owner committed.
        """
        for mark in marks:
            stream = self.streams.get(mark.stream)
            if stream is None:
                stream = self.streams[mark.stream] = Stream(mark.stream)
            stream.raiseTo(mark.committed, mark.latest)

    def marks(self) -> tuple[StreamMark, ...]:
        """
        How far each stream is durable, those with nothing durable left out.
        """
        return tuple(
            StreamMark(stream.number, stream.committed, stream.latest)
            for stream in self.streams.values()
            if stream.committed >= 0
        )
