"""
What a box sends whose protocol numbers no tracks: blocks, of which what was seen is not published again (DESIGN 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from binaryserver.errors import RejectedData
from binaryserver.proto.md30_pb2 import Track
from binaryserver.session.fingerprints import Fingerprints, fingerprint
from binaryserver.session.intake import Intake
from binaryserver.session.line import Pause
from binaryserver.transcode.tracks import MAX_TRACKS


class BlockIntake(Intake):
    """
    L{Intake}, with blocks.
    """

    def takeBlock(self, source: str, tracks: Sequence[Track], payload: bytes, ackId: int) -> bool:
        """
        Take a block of tracks without an index. It is acked in its turn, once all of its tracks are committed: those
        that are in flight already by the copy that came first.

        @param source: for rejects, e.g. C{"md21:tracks"}
        @param tracks: as decoded: equal tracks are equal here, whatever block they came in
        @param payload: bytes, the block as it came
        @param ackId: what the link's C{acknowledge} gets, as the one of C{Batch.packetIds}
        @return: whether it was taken; if not, it is to be brought again when the link resumes
        """
        known = self._knownTracks()
        if known is None:
            self.pause(Pause.handover)
            return False
        count = len(tracks)
        if count > MAX_TRACKS:
            error = RejectedData("TOO_MANY_TRACKS", f"{count} tracks in a block, {MAX_TRACKS} at most")
            self.reject(source, error, payload, 1, ackId)
            return True
        began = perf_counter()
        bodies = [track.SerializeToString() for track in tracks]
        numbers = [fingerprint(body) for body in bodies]
        fresh, awaited = known.judge(numbers)
        counters = self.gateway.counters
        counters.duplicates += count - len(fresh)
        counters.unindexed += len(fresh)
        if not count or not (fresh or awaited):
            self._done(1, ackId)
            return True
        taken = self._batch(known, 0, 0, 1, (ackId,), len(payload))
        known.take(taken, [numbers[at] for at in fresh], awaited)
        if not fresh:
            self._enqueue(taken)
            return True
        if len(fresh) < count:
            tracks = [tracks[at] for at in fresh]
            bodies = [bodies[at] for at in fresh]
            numbers = [numbers[at] for at in fresh]
        gateway = self.gateway
        records, refused, size = self._encoder.encode(
            tracks, bodies, [track.recorded_at for track in tracks], 0, 0, 0, gateway.nowMs(), fingerprints=numbers
        )
        gateway.observed.transcoding.observe(perf_counter() - began)
        taken.size += size
        self.box.inFlight += 1
        self._enqueue(taken)
        counters.tracks += len(records)
        if refused:
            # At their positions in the block as it came.
            placed = [one._replace(position=fresh[one.position]) for one in refused]
            self._submitRefused(taken, source, placed, (payload,), (count,))
        if records:
            topic = gateway.topics.tracks
            partition = gateway.partition(topic, self.envelope.key)
            gateway.uplink.submit(topic, partition, records, taken.size, taken)
        return True

    def _knownTracks(self) -> Fingerprints | None:
        """
        What is known of the box's tracks; L{None}: that is not known yet.
        """
        box = self.box
        if not box.mayTake:
            return None
        if box.fingerprints is None or not box.fingerprints.isLoaded:
            self.gateway.registry.loadFingerprints(box)
        return box.fingerprints if box.fingerprints is not None and box.fingerprints.isLoaded else None
