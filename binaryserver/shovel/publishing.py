"""
One batch on its way from a list to the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger

from binaryserver.bus.memorybus import recordSize
from binaryserver.bus.topics import Topics
from binaryserver.errors import BusError, RecordTooLarge, RejectedData
from binaryserver.interfaces import IBus
from binaryserver.model import Record
from binaryserver.proto import cloudnext_pb2
from binaryserver.shovel.counts import Counts
from binaryserver.transcode.cloudconnect_layout import Kind
from binaryserver.transcode.cloudconnect_reading import decodeEvent
from binaryserver.transcode.envelope import CONTENT_TYPE, SPEC_VERSION, cloudTime

RETRY = 1.0
"""s after which what the bus did not take is sent again."""

_REJECT = ("ce_type", b"cloudnext.v1.Reject")
_REJECT_OVERHEAD = 2048
_MOST_PARTITIONS = 100_000

_Flushes = dict[tuple[str, int], list[Record]]


@dataclass(slots=True)
class _Batch:
    """
    What is to be published of a batch, and what became of its events.
    """

    flushes: _Flushes = field(default_factory=dict)
    copied: int = 0
    skipped: int = 0
    rejected: int = 0


class Publisher:
    """
    Publishes batches of one kind.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        nowMs: Callable[[], int],
        bus: IBus,
        topics: Topics,
        kind: Kind,
        instance: str,
        counts: Counts,
    ) -> None:
        """
        @param nowMs: Unix ms
        @param instance: our id
        """
        self._clock = clock
        self._nowMs = nowMs
        self._bus = bus
        self._rejects = topics.rejects
        self._topic: str = getattr(topics, f"{kind.value}s")
        self._kind = kind
        self._instance = instance
        self._counts = counts
        # Of boxes: constant while the bus is up.
        self._partitions: dict[tuple[str, bytes], int] = {}

    async def publish(self, packed: Sequence[bytes], mayRetry: Callable[[], bool]) -> bool:
        """
        Publish a batch.

        What fails is sent again, a partition's events in their order, until the bus has them.

        @param packed: events of CloudConnect
        @param mayRetry: whether they are still ours to publish
        @return: whether the bus has them all
        """
        batch = self._batch(packed)
        while batch.flushes:
            await self._flush(batch)
            if batch.flushes:
                self._counts.failures += len(batch.flushes)
                await deferLater(self._clock, RETRY)
                if not mayRetry():
                    return False
        name = self._kind.value
        self._counts.troubles[name] = ""
        self._counts.copied[name] += batch.copied
        self._counts.skipped[name] += batch.skipped
        self._counts.rejected[name] += batch.rejected
        return True

    def _batch(self, packed: Sequence[bytes]) -> _Batch:
        batch = _Batch()
        for each in packed:
            try:
                kind, record, isShared = decodeEvent(each)
                if kind is not self._kind:
                    raise RejectedData("DECODE", f"a {kind.value} in the list of {self._kind.value}s")
                if recordSize(record) > self._bus.maxRecord:
                    raise RejectedData("RECORD_TOO_LARGE", f"its event has {len(record.value)} bytes")
            except RejectedData as error:
                batch.rejected += 1
                self._add(batch.flushes, self._rejects, self._rejectRecord(each, error))
                continue
            if isShared:
                batch.skipped += 1
                continue
            batch.copied += 1
            self._add(batch.flushes, self._topic, record)
        return batch

    def _add(self, flushes: _Flushes, topic: str, record: Record) -> None:
        partition = self._partitions.get((topic, record.key))
        if partition is None:
            if len(self._partitions) >= _MOST_PARTITIONS:
                self._partitions.clear()
            partition = self._partitions[topic, record.key] = self._bus.partitionFor(topic, record.key)
        flushes.setdefault((topic, partition), []).append(record)

    async def _flush(self, batch: _Batch) -> None:
        """
        Publish, and leave in the batch what the bus is not known to have.
        """
        flushes, batch.flushes = batch.flushes, {}
        done = [self._bus.publish(topic, partition, records) for (topic, partition), records in flushes.items()]
        results: Any = await DeferredList(done, consumeErrors=True)
        for (place, records), (isGood, failure) in zip(flushes.items(), results, strict=True):
            if isGood:
                continue
            if failure.check(RecordTooLarge):
                await self._singly(place, records, batch)
            elif failure.check(BusError):
                batch.flushes.setdefault(place, [])[:0] = records
                self._complain(str(failure.value))
            else:
                failure.raiseException()

    async def _singly(self, place: tuple[str, int], records: list[Record], batch: _Batch) -> None:
        """
        One of these the bus will never take: that one is to go to C{rejects}, and one of those without its bytes.
        """
        for position, record in enumerate(records):
            try:
                await self._bus.publish(*place, [record])
            except RecordTooLarge as error:
                if place[0] == self._rejects:
                    batch.flushes.setdefault(place, []).append(_withoutPayload(record))
                    continue
                batch.copied -= 1
                batch.rejected += 1
                refusal = RejectedData("RECORD_TOO_LARGE", str(error))
                self._add(batch.flushes, self._rejects, self._rejectRecord(record.value, refusal))
            except BusError as error:
                batch.flushes.setdefault(place, []).extend(records[position:])
                self._complain(str(error))
                return

    def _complain(self, reason: str) -> None:
        if self._counts.troubles[self._kind.value] != reason:
            self._counts.troubles[self._kind.value] = reason
            self.log.warn(
                "the bus did not take {kind} events, trying again: {reason}", kind=self._kind.value, reason=reason
            )

    def _rejectRecord(self, payload: bytes, error: RejectedData) -> Record:
        """
        What cannot be copied. A repeat has the same C{ce_id}.
        """
        nowMs = self._nowMs()
        source = f"rqueue:{self._kind.value}s"
        reject = cloudnext_pb2.Reject(
            source=source,
            code=error.code,
            reason=str(error)[:512],
            payload=payload[: max(0, self._bus.maxRecord - _REJECT_OVERHEAD)],
            payload_size=len(payload),
            instance=self._instance,
            ingest_time=nowMs,
        )
        name = f"{source}/{blake2b(payload, digest_size=16).hexdigest()}".encode()
        headers = [
            SPEC_VERSION,
            _REJECT,
            ("ce_source", f"/binaryserver/{self._instance}".encode()),
            CONTENT_TYPE,
            ("ce_id", name),
            ("ce_time", cloudTime(nowMs)),
        ]
        return Record(source.encode(), reject.SerializeToString(), headers)


def _withoutPayload(record: Record) -> Record:
    """
    A reject whose bytes are too many for the bus.
    """
    reject = cloudnext_pb2.Reject.FromString(record.value)
    reject.payload = b""
    return record._replace(value=reject.SerializeToString())
