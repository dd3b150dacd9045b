"""
What a box sends, judged, made into events, and sent to the bus: the same for every box protocol.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import RejectedData
from binaryserver.interfaces import IEventCodec
from binaryserver.model import Final, FinalStatus
from binaryserver.mqtt.events import Event
from binaryserver.proto import md30_pb2
from binaryserver.proto.md30_pb2 import Track, TrackBatch
from binaryserver.session.index import Stream, Verdict
from binaryserver.session.line import AckLine, Pause
from binaryserver.session.reasons import Ending, Reason
from binaryserver.session.uplink import Batch
from binaryserver.transcode.codecs import ProtobufCodec
from binaryserver.transcode.envelope import Envelope
from binaryserver.transcode.events import decodeMessage, messageRecord, rejectRecord
from binaryserver.transcode.runs import Run, readRun, streamHead
from binaryserver.transcode.tracks import MAX_FUTURE_MS, MAX_TRACKS, RefusedTrack, TrackEncoder

if TYPE_CHECKING:
    from binaryserver.directory.records import Account
    from binaryserver.gateway import Gateway

_MAX_INDEX = (1 << 64) - 1
_LAST_FOR_RUNS = _MAX_INDEX - MAX_TRACKS

_ACKED = Final(FinalStatus.acked, "", 0)
_ANSWERS = {
    md30_pb2.ACK_STATUS_NO_LISTENER: Final(FinalStatus.refused, "NO_LISTENER", 0),
    md30_pb2.ACK_STATUS_NOT_UNDERSTOOD: Final(FinalStatus.refused, "NOT_UNDERSTOOD", 0),
}
"""What a message ends with by its application's answer."""


class Intake(AckLine):
    """
    A link's way in. Subclassed by L{binaryserver.session.link.BoxLink}, which opens it.

    @ivar account: its box's, by whose terms it is published; set when the box is admitted
    @ivar envelope: what all its events have in common; set once the box is here
    """

    log = Logger()

    account: Account
    envelope: Envelope
    _encoder: TrackEncoder

    def __init__(self, gateway: Gateway) -> None:
        AckLine.__init__(self, gateway)
        self._unindexed = 0
        # The stream of tracks taken last, and what its payloads begin with.
        self._runStream = 0
        self._runHead = b""
        # s of the process's clock, when what is being transcoded was begun with.
        self._transcodingSince = 0.0

    def takeTracks(self, codec: IEventCodec, source: str, publishes: Sequence[Event], position: int) -> int:
        """
        Take a PUBLISH of tracks, and with it those behind it that go on where it ends: judging, noting and settling are
        done once for all of them.

        @param source: for rejects, e.g. C{"md30:t"}
        @param publishes: what came in one read; at C{position} stands a L{Publish}
        @return: how many were taken; 0: it is to be brought again when the link resumes
        """
        if not self.box.mayTake:
            self.pause(Pause.handover)
            return 0
        self._transcodingSince = perf_counter()
        head: Any = publishes[position]
        _, payload, qos, packetId, _, _ = head
        stream = self.box.streams.get(self._runStream)
        if stream is not None and qos == 1 and type(codec) is ProtobufCodec and stream.taken < _LAST_FOR_RUNS:
            limits = self.gateway.limits
            run = readRun(
                publishes,
                position,
                self._runHead,
                stream.taken + 1,
                max(1, limits.window - self._publishes),
                limits.windowBytes - self._inFlightBytes,
                MAX_TRACKS,
            )
            if run.ends:
                self.box.touch(stream)
                self._takeRun(codec, source, stream, run)
                return len(run.ends)
        if len(payload) > codec.threadedAbove:
            self._decodeInThread(codec, source, payload, qos, packetId)
        else:
            self._takeOne(codec, source, payload, qos, packetId)
        return 1

    def _takeRun(self, codec: IEventCodec, source: str, stream: Stream, run: Run) -> None:
        tracks = run.parse()
        if tracks is None:
            # Each for itself, then: the others must not suffer for the one.
            for payload, packetId in zip(run.payloads, run.packetIds, strict=True):
                self._takeOne(codec, source, payload, 1, packetId)
            return
        times = [track.recorded_at for track in tracks]
        first = stream.taken + 1
        self._publish(source, stream, tracks, run.bodies, times, first, 0, 0, run.packetIds, 1, run.payloads, run.ends)

    def _takeOne(self, codec: IEventCodec, source: str, payload: bytes, qos: int, packetId: int) -> None:
        try:
            batch, unknown = self._decode(codec, payload)
        except RejectedData as error:
            self.reject(source, error, payload, qos, packetId)
        else:
            self._takeBatch(batch, unknown, source, payload, qos, packetId)

    def _decode(self, codec: IEventCodec, payload: bytes) -> tuple[TrackBatch, int]:
        """
        See L{IEventCodec.decode}. A codec that fails in another way than it may rejects what it was given: a box must
        not send it for ever. In its words may stand what was in the payload, so that they are not repeated.
        """
        try:
            return codec.decode(payload)
        except RejectedData:
            raise
        except Exception as error:
            kind = type(error).__name__
            self.log.error("the codec of {topic} failed: {kind}", topic=codec.shortTopic, kind=kind)
            raise RejectedData("DECODE", f"its codec failed ({kind})") from None

    def _decodeInThread(self, codec: IEventCodec, source: str, payload: bytes, qos: int, packetId: int) -> None:
        self.pause(Pause.decoding)
        reactor = self.gateway.clock

        def decode() -> tuple[TrackBatch, int, float]:
            began = perf_counter()
            return *self._decode(codec, payload), perf_counter() - began

        def decoded(result: tuple[TrackBatch, int, float]) -> None:
            if self.pauses & Pause.closing:
                return
            if not self.box.mayTake:
                self.end(Ending(Reason.socketClosed, "the bus failed to take its data"))
                return
            batch, unknown, took = result
            self._transcodingSince = perf_counter() - took
            self._takeBatch(batch, unknown, source, payload, qos, packetId)

        def failed(failure: Failure) -> None:
            failure.trap(RejectedData)
            if not self.pauses & Pause.closing:
                self.reject(source, failure.value, payload, qos, packetId)  # type: ignore[arg-type]

        def unforeseen(failure: Failure) -> None:
            self.log.failure("decoding failed in an unforeseen way", failure)
            self.end(Ending(Reason.networkError, "its data could not be decoded"))

        done = deferToThreadPool(reactor, reactor.getThreadPool(), decode)
        done.addCallbacks(decoded, failed).addErrback(unforeseen)

        def goOn(_: object) -> None:
            self.settleIfDue()
            self.resume(Pause.decoding)

        done.addCallback(goOn)

    def _takeBatch(self, batch: TrackBatch, unknown: int, source: str, payload: bytes, qos: int, packetId: int) -> None:
        """
        Take one batch, whatever its index.
        """
        counters = self.gateway.counters
        counters.unknownNames += unknown
        tracks = list(batch.tracks)
        count = len(tracks)
        number, first = batch.stream, batch.first_index
        if not count:
            self._done(qos, packetId)
            return
        if count > MAX_TRACKS:
            error = RejectedData("TOO_MANY_TRACKS", f"{count} tracks in a batch, {MAX_TRACKS} at most")
            self.reject(source, error, payload, qos, packetId)
            return
        times = [track.recorded_at for track in tracks]
        latestTime = self.gateway.nowMs() + MAX_FUTURE_MS
        stream = None
        skip = missing = 0
        if number:
            try:
                # A time that cannot be true says nothing of whether the track was seen.
                plausible = [time if time <= latestTime else 0 for time in times]
                fresh = self._judge(number, first, plausible, qos, packetId, len(payload))
            except RejectedData as error:
                self.reject(source, error, payload, qos, packetId)
                return
            if fresh is None:
                return
            stream, skip, missing = fresh
            if number != self._runStream:
                self._runStream, self._runHead = number, streamHead(number)
        else:
            first, self._unindexed = self._unindexed, self._unindexed + count
            counters.unindexed += count
        bodies = [track.SerializeToString() for track in tracks]
        self._publish(
            source, stream, tracks, bodies, times, first, missing, skip, (packetId,), qos, (payload,), (count,)
        )

    def _judge(
        self, number: int, first: int, times: Sequence[int], qos: int, packetId: int, size: int
    ) -> tuple[Stream, int, int] | None:
        """
        Deal with a run of indices that is not fresh.

        @return: of a fresh run the stream, how many at its beginning to skip, and how many are missing before it;
            L{None}: it is dealt with
        @raise RejectedData: it cannot be true
        """
        count = len(times)
        if first + count - 1 > _MAX_INDEX:
            raise RejectedData("BAD_INDEX", "an index beyond 64 bits")
        counters = self.gateway.counters
        stream = self.box.stream(number)
        verdict, skip, missing = stream.judge(first, times)
        if verdict is Verdict.fresh:
            counters.holes += missing > 0
            counters.duplicates += skip
            return stream, skip, missing
        if verdict is Verdict.jump:
            raise RejectedData("INDEX_JUMP", f"index {first} after {stream.taken} is too far ahead")
        if verdict is Verdict.lateDuplicate:
            raise RejectedData("LATE_DUPLICATE", f"index {first} was seen, with what was recorded before this")
        counters.duplicates += count
        if verdict is Verdict.duplicate:
            self._done(qos, packetId)
        else:
            waiter = self._batch(stream, first + count - 1, 0, qos, (packetId,), size)
            stream.wait(waiter)
            self._enqueue(waiter)
        return None

    def _publish(
        self,
        source: str,
        stream: Stream | None,
        tracks: Sequence[Track],
        bodies: Sequence[bytes],
        times: Sequence[int],
        first: int,
        missing: int,
        skip: int,
        packetIds: Sequence[int],
        qos: int,
        payloads: Sequence[bytes],
        ends: Sequence[int],
    ) -> None:
        """
        Note tracks as taken and send their events to the bus.

        @param stream: L{None}: they have no index
        @param ends: how many tracks there are up to the end of each payload
        """
        gateway = self.gateway
        nowMs = gateway.nowMs()
        number = stream.number if stream is not None else 0
        records, refused, size = self._encoder.encode(tracks, bodies, times, number, first, missing, nowMs, skip)
        gateway.observed.transcoding.observe(perf_counter() - self._transcodingSince)
        latest = max(times)
        if latest > nowMs + MAX_FUTURE_MS:
            # Refused; a mark that covered it would let no later track pass for a new one.
            latest = max((time for time in times if time <= nowMs + MAX_FUTURE_MS), default=0)
        size += sum(map(len, payloads))
        taken = self._batch(stream, first + len(tracks) - 1, latest, qos, packetIds, size)
        if stream is not None:
            stream.take(taken)
        self.box.inFlight += 1
        self._enqueue(taken)
        gateway.counters.tracks += len(records)
        if refused:
            self._submitRefused(taken, source, refused, payloads, ends)
        if records:
            topic = gateway.topics.tracks
            gateway.uplink.submit(topic, gateway.partition(topic, self.envelope.key), records, size, taken)

    def takeMessage(self, source: str, payload: bytes, qos: int, packetId: int) -> bool:
        """
        Take a message on a channel; as L{takeTracks}.
        """
        if not self.box.mayTake:
            self.pause(Pause.handover)
            return False
        gateway = self.gateway
        nowMs = gateway.nowMs()
        try:
            message = decodeMessage(payload, gateway.bus.maxRecord)
        except RejectedData as error:
            self.reject(source, error, payload, qos, packetId)
            return True
        self._takeMessage(message, source, payload, qos, packetId, nowMs)
        if message.ack_of:
            # The box forgets its answer with our ack, which therefore waits for the mailbox too. It counts whatever
            # became of its index.
            final = _ANSWERS.get(message.ack_status, _ACKED)._replace(at=nowMs)
            self.hold(packetId, gateway.delivery.answered(self.box.key, message.ack_of, final))
        return True

    def _takeMessage(
        self, message: md30_pb2.Message, source: str, payload: bytes, qos: int, packetId: int, nowMs: int
    ) -> None:
        gateway = self.gateway
        try:
            recordedAt = message.recorded_at if message.recorded_at <= nowMs + MAX_FUTURE_MS else 0
            stream = None
            missing = 0
            if message.stream:
                fresh = self._judge(message.stream, message.index, (recordedAt,), qos, packetId, len(payload))
                if fresh is None:
                    return
                stream, _, missing = fresh
        except RejectedData as error:
            self.reject(source, error, payload, qos, packetId)
            return
        record = messageRecord(self.envelope, gateway.ids.next(), message, missing, nowMs)
        size = len(record.value)
        taken = self._batch(stream, message.index, recordedAt, qos, (packetId,), size + len(payload))
        if stream is not None:
            stream.take(taken)
        self.box.inFlight += 1
        self._enqueue(taken)
        gateway.counters.messages += 1
        topic = gateway.topics.messages
        gateway.uplink.submit(topic, gateway.partition(topic, self.envelope.key), (record,), size, taken)

    def reject(self, source: str, error: RejectedData, payload: bytes, qos: int, packetId: int) -> None:
        """
        Send data that cannot be taken to C{rejects}; the box gets its ack once it is there.
        """
        self.log.info(
            "data rejected: {code} ({account}/{asset})",
            code=error.code,
            asset=self.envelope.box.asset,
            account=self.envelope.box.account,
        )
        gateway = self.gateway
        gateway.counters.rejects += 1
        taken = self._batch(None, 0, 0, qos, (packetId,), 2 * len(payload))
        self.box.inFlight += 1
        self._enqueue(taken)
        self._submitReject(taken, source, error.code, str(error), payload, gateway.nowMs())

    def _submitRefused(
        self, taken: Batch, source: str, refused: list[RefusedTrack], payloads: Sequence[bytes], ends: Sequence[int]
    ) -> None:
        """
        Send the payloads that hold refused tracks to C{rejects}, each with the first of its reasons.

        @param ends: how many tracks there are up to the end of each payload
        """
        nowMs = self.gateway.nowMs()
        self.log.info(
            "{count} tracks rejected: {code} ({account}/{asset})",
            count=len(refused),
            code=refused[0].code,
            asset=self.envelope.box.asset,
            account=self.envelope.box.account,
        )
        byPayload: dict[int, list[RefusedTrack]] = {}
        for one in refused:
            byPayload.setdefault(bisect_right(ends, one.position), []).append(one)
        for number, ones in byPayload.items():
            start = ends[number - 1] if number else 0
            self.gateway.counters.rejects += 1
            first = ones[0]
            reason = (
                f"{len(ones)} of {ends[number] - start} tracks refused; "
                f"the first, at position {first.position - start}: {first.reason}"
            )
            self._submitReject(taken, source, first.code, reason, payloads[number], nowMs)

    def _submitReject(self, taken: Batch, source: str, code: str, reason: str, payload: bytes, nowMs: int) -> None:
        gateway = self.gateway
        record = rejectRecord(
            self.envelope,
            gateway.ids.next(),
            source,
            code,
            reason,
            payload,
            nowMs,
            gateway.bus.maxRecord,
            self.account.privacy,
        )
        topic = gateway.topics.rejects
        gateway.uplink.submit(topic, gateway.partition(topic, self.envelope.key), (record,), len(record.value), taken)
