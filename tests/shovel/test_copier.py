"""
Tests for L{binaryserver.shovel.copier} and L{binaryserver.shovel.publishing}, without a Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.errors import BusError, RecordTooLarge
from binaryserver.model import Record, StoredRecord
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2
from binaryserver.shovel.copier import Copier, State
from binaryserver.shovel.counts import Counts
from binaryserver.shovel.publishing import Publisher
from binaryserver.transcode.cloudconnect import encodeEvent
from binaryserver.transcode.cloudconnect_layout import Kind
from tests.shovel.events import NOW, recordsOf, trackRecords
from tests.shovel.memorylists import MemoryList, MemorySource

TOPICS = Topics.named("t.")
LEASE = 10.0


class FaultyBus(MemoryBus):
    """
    One that may refuse, hold back, or have a smaller limit than it says.

    @ivar fault: gives what a flush fails with, if it does
    @ivar held: flushes are kept waiting, here
    """

    fault: Callable[[str, int, Sequence[Record]], Exception | None] | None = None
    held: list[Callable[[], object]] | None = None

    def publish(self, topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
        """
        See L{binaryserver.interfaces.IBus.publish}.
        """
        error = self.fault(topic, partition, records) if self.fault is not None else None
        if error is not None:
            return fail(error)
        if self.held is None:
            return super().publish(topic, partition, records)
        waiting: Deferred[None] = Deferred()
        publish = super().publish
        self.held.append(lambda: publish(topic, partition, records).addBoth(waiting.callback))
        return waiting


class Life:
    """
    What ends before or after the effect of one of the calls it bounds: no answer comes from then on.

    @ivar isOver: it has
    """

    def __init__(self, moments: int) -> None:
        """
        @param moments: how many it lasts, of which each call has two
        """
        self._left = moments
        self.isOver = False

    def bounding(self, call: Callable[..., Deferred[Any]]) -> Callable[..., Deferred[Any]]:
        """
        A function, as long as this lasts.
        """

        def bounded(*arguments: Any) -> Deferred[Any]:
            if self._ends():
                return Deferred()
            done = call(*arguments)
            return Deferred() if self._ends() else done

        return bounded

    def _ends(self) -> bool:
        self.isOver = self.isOver or not self._left
        self._left -= 1
        return self.isOver


class CopierTests(SynchronousTestCase):
    """
    One list, one bus.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.bus = FaultyBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        self.successResultOf(self.bus.start())
        self.list = MemoryList(self.clock)
        self.counts = Counts()
        self.copier = self.makeCopier()

    def makeCopier(self, kind: Kind = Kind.track, name: str = "me", batch: int = 10) -> Copier:
        """
        One that is not started.
        """
        publisher = Publisher(self.clock, lambda: NOW, self.bus, TOPICS, kind, "shovel-0", self.counts)
        source = MemorySource(self.list, name, LEASE)
        return Copier(self.clock, source, publisher, kind, self.counts, batch, 0.1, LEASE)

    def put(self, records: Sequence[Record], shared: bool = False, kind: Kind = Kind.track) -> None:
        """
        Put events into the list.
        """
        self.list.events += [encodeEvent(kind, record, shared) for record in records]

    def pass_(self, seconds: float = 1.0) -> None:
        """
        Let time pass, in small steps.
        """
        for _ in range(int(seconds * 20)):
            self.clock.advance(0.05)

    def stored(self, topic: str) -> list[StoredRecord]:
        """
        What stands in a topic.
        """
        return list(self.bus._topics[topic])

    def assertCopied(self, records: Sequence[Record], topic: str = TOPICS.tracks) -> None:
        """
        These stand in the topic, as they were published directly, in their order, and the list is empty.
        """
        stored = [Record(one.key, one.value, list(one.headers)) for one in self.stored(topic)]
        self.assertEqual(stored, list(records))
        self.assertEqual((self.list.events, self.list.taken), ([], []))

    def test_copies(self) -> None:
        """
        Every kind of event arrives as it would have been published directly, by batches, in order.
        """
        for kind in Kind:
            self.list = MemoryList(self.clock)
            records = recordsOf(kind, 25)
            self.put(records, kind=kind)
            copier = self.makeCopier(kind)
            copier.start()
            self.pass_()
            self.assertCopied(records, getattr(TOPICS, f"{kind.value}s"))
            self.assertEqual(self.counts.copied[kind.value], 25)
            self.assertTrue(self.successResultOf(copier.stop(1)))
        self.assertEqual(self.counts.batches, 9)

    def test_asItComes(self) -> None:
        """
        What is put into an empty list is copied at the next look.
        """
        self.copier.start()
        self.pass_()
        self.assertIs(self.copier.state, State.idle)
        records = trackRecords(0, 3)
        self.put(records)
        self.pass_(0.2)
        self.assertCopied(records)

    def test_shared(self) -> None:
        """
        What CloudNext has already is skipped and counted.
        """
        self.put(trackRecords(0, 3, account="both"), shared=True)
        records = trackRecords(0, 2)
        self.put(records)
        self.copier.start()
        self.pass_()
        self.assertCopied(records)
        self.assertEqual((self.counts.skipped["track"], self.counts.copied["track"]), (3, 2))

    def test_poison(self) -> None:
        """
        What cannot be copied goes to C{rejects}, with its bytes, under an id that a repeat has too; the rest goes on.
        """
        records = trackRecords(0, 2)
        self.put(records[:1])
        self.list.events += [b"\xc1", encodeEvent(Kind.presence, recordsOf(Kind.presence, 1)[0])]
        self.put(records[1:])
        self.copier.start()
        self.pass_()
        self.assertCopied(records)
        rejects = [cloudnext_pb2.Reject.FromString(one.value) for one in self.stored(TOPICS.rejects)]
        self.assertEqual((rejects[0].source, rejects[0].code, rejects[0].payload_size), ("rqueue:tracks", "DECODE", 1))
        self.assertEqual(rejects[0].payload, b"\xc1")
        self.assertIn("a presence in the list of tracks", rejects[1].reason)
        self.assertEqual(self.counts.rejected["track"], 2)
        ids = {dict(one.headers)["ce_id"] for one in self.stored(TOPICS.rejects)}
        self.assertEqual(len(ids), 2)
        self.list.events += [b"\xc1"]
        self.pass_()
        self.assertEqual({dict(one.headers)["ce_id"] for one in self.stored(TOPICS.rejects)}, ids)

    def test_tooLarge(self) -> None:
        """
        An event that the bus will never take goes to C{rejects}, cut, whether that is known before or not.
        """
        large = trackRecords(1, 1, size=self.bus.maxRecord)
        records = trackRecords(0, 4)
        self.put([records[0], *large, *records[1:]])

        def fault(topic: str, partition: int, given: Sequence[Record]) -> Exception | None:
            isBad = topic == TOPICS.tracks and records[2] in [Record(*one[:2], list(one.headers)) for one in given]
            return RecordTooLarge("the broker says so") if isBad else None

        self.bus.fault = fault
        self.copier.start()
        self.pass_(3)
        self.assertCopied([records[0], records[1], records[3]])
        rejects = [cloudnext_pb2.Reject.FromString(one.value) for one in self.stored(TOPICS.rejects)]
        self.assertEqual([one.code for one in rejects], ["RECORD_TOO_LARGE"] * 2)
        self.assertGreater(rejects[0].payload_size, self.bus.maxRecord)
        self.assertEqual(rejects[1].payload, records[2].value)
        self.assertEqual((self.counts.copied["track"], self.counts.rejected["track"]), (3, 2))

    def test_rejectTooLarge(self) -> None:
        """
        A reject that the bus will not take with its bytes is told without them, and blocks nothing.
        """
        self.list.events += [b"\xc1" * 5000, b"\xc1"]
        records = trackRecords(0, 2)
        self.put(records)

        def fault(topic: str, partition: int, given: Sequence[Record]) -> Exception | None:
            return RecordTooLarge("the broker says so") if any(len(one.value) > 4000 for one in given) else None

        self.bus.fault = fault
        self.copier.start()
        self.pass_(3)
        self.assertCopied(records)
        rejects = [cloudnext_pb2.Reject.FromString(one.value) for one in self.stored(TOPICS.rejects)]
        self.assertEqual(sorted((one.payload, one.payload_size) for one in rejects), [(b"", 5000), (b"\xc1", 1)])

    def test_busAway(self) -> None:
        """
        While the bus does not take events they stay taken and are sent again, each box's in order; nothing is lost.
        """
        records = trackRecords(0, 30)
        self.put(records)
        self.bus.fault = lambda topic, partition, given: BusError("it is away")
        self.copier.start()
        self.pass_(5)
        self.assertEqual(self.stored(TOPICS.tracks), [])
        self.assertEqual((len(self.list.events), len(self.list.taken)), (20, 10))
        self.assertEqual(self.counts.troubles["track"], "it is away")
        self.bus.fault = None
        self.pass_(3)
        self.assertCopied(records)
        self.assertEqual(self.counts.troubles["track"], "")
        self.assertGreaterEqual(self.counts.failures, 3)

    def test_onePartitionAway(self) -> None:
        """
        Of a batch only what failed is sent again.
        """
        records = [record for asset in ("a", "b", "c", "d", "e") for record in trackRecords(0, 2, asset)]
        broken = self.bus.partitionFor(TOPICS.tracks, records[0].key)
        self.put(records)
        self.bus.fault = lambda topic, partition, given: BusError("no leader") if partition == broken else None
        self.copier.start()
        self.pass_(2)
        others = [record for record in records if self.bus.partitionFor(TOPICS.tracks, record.key) != broken]
        self.assertEqual(len(self.stored(TOPICS.tracks)), len(others))
        self.bus.fault = None
        self.pass_(2)
        self.assertEqual(sorted(one.value for one in self.stored(TOPICS.tracks)), sorted(one.value for one in records))
        self.assertEqual(self.list.taken, [])

    def test_acksAfterCommit(self) -> None:
        """
        Nothing leaves the list of what is taken before the bus has it.
        """
        self.put(trackRecords(0, 5))
        self.bus.held = []
        self.copier.start()
        self.pass_(3 * LEASE)
        self.assertIs(self.copier.state, State.publishing)
        self.assertEqual(len(self.list.taken), 5)
        for go in self.bus.held:
            go()
        self.pass_(1)
        self.assertCopied(trackRecords(0, 5))

    def test_keepsLeaseWhilePublishing(self) -> None:
        """
        A bus that takes longer than a lease does not cost the list.
        """
        self.put(trackRecords(0, 5))
        self.bus.held = []
        self.copier.start()
        other = self.makeCopier(name="other")
        other.start()
        self.pass_(3 * LEASE)
        self.assertEqual(self.list.reader, "me")
        self.assertIs(other.state, State.standby)
        self.assertEqual(self.counts.takeovers, 1)

    def test_takesOver(self) -> None:
        """
        What a dead reader had taken is published again by the next, first, with the same ids.
        """
        records = trackRecords(0, 8)
        self.put(records)
        dead = MemorySource(self.list, "dead", LEASE)
        self.successResultOf(dead.exchange(0, 5))
        self.copier.start()
        self.pass_(LEASE / 2)
        self.assertEqual(self.stored(TOPICS.tracks), [])
        self.assertIs(self.copier.state, State.standby)
        self.pass_(LEASE)
        self.assertCopied(records)
        self.assertEqual(self.counts.again, 5)

    def test_diesAnywhere(self) -> None:
        """
        Killed before or after whichever of its calls of list and bus has its effect: the next loses nothing, keeps the
        order, and repeats one batch at most.
        """
        records = trackRecords(0, 25)
        deaths = 0
        while True:
            self.setUp()
            self.put(records)
            life = Life(deaths)
            mortal = self.makeCopier(name="mortal")
            source = mortal._source
            source.exchange = life.bounding(source.exchange)  # type: ignore[method-assign]
            source.renew = life.bounding(source.renew)  # type: ignore[method-assign]
            self.bus.publish = life.bounding(self.bus.publish)  # type: ignore[method-assign]
            mortal.start()
            self.pass_(2)
            if not life.isOver:
                break
            del self.bus.publish
            self.copier.start()
            self.pass_(2 * LEASE)
            ids = [dict(one.headers)["ce_id"] for one in self.stored(TOPICS.tracks)]
            self.assertEqual(list(dict.fromkeys(ids)), [dict(one.headers)["ce_id"] for one in records], deaths)
            self.assertLessEqual(len(ids), len(records) + 10)
            self.assertEqual((self.list.events, self.list.taken), ([], []))
            deaths += 1
        self.assertGreater(deaths, 12)

    def test_overtaken(self) -> None:
        """
        A reader that was taken for dead stops sending again what another has now.
        """
        records = trackRecords(0, 5)
        self.put(records)
        self.bus.fault = lambda topic, partition, given: BusError("it is away")
        self.copier.start()
        self.pass_(1)
        self.list.reader, self.list.until = "other", self.clock.seconds() + 1000
        self.pass_(LEASE)
        self.bus.fault = None
        self.pass_(LEASE)
        self.assertEqual(self.stored(TOPICS.tracks), [])
        self.assertIs(self.copier.state, State.standby)
        self.assertEqual(len(self.list.taken), 5)
        self.assertFalse(self.counts.reading["track"])

    def test_listAway(self) -> None:
        """
        While the list cannot be reached it is tried again; an answer that was lost repeats nothing.
        """
        records = trackRecords(0, 30)
        self.put(records)
        self.list.isAway = True
        self.copier.start()
        self.pass_(2)
        self.assertEqual(self.counts.troubles["track"], "it is away")
        self.list.isAway = False
        self.list.losesAnswer = True
        self.bus.held = []
        self.pass_(2)
        self.list.losesAnswer = True
        for go in self.bus.held:
            go()
        self.bus.held = None
        self.pass_(3)
        self.assertCopied(records)
        self.assertEqual(self.counts.troubles["track"], "")

    def test_unforeseen(self) -> None:
        """
        An error that nobody foresaw is logged, and the batch is tried again: it is neither lost nor passed over.
        """
        records = trackRecords(0, 3)
        self.put(records)

        def fault(topic: str, partition: int, given: Sequence[Record]) -> Exception | None:
            raise RuntimeError("a bug")

        self.bus.fault = fault
        self.copier.start()
        self.pass_(0.1)
        self.assertIn("a bug", self.counts.troubles["track"])
        self.bus.fault = None
        self.pass_(2)
        self.assertCopied(records)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_stopDrains(self) -> None:
        """
        A stop waits for what was taken, says that it is done with and lets go of the list, so that another has it at
        once.
        """
        self.put(trackRecords(0, 15))
        self.bus.held = []
        self.copier.start()
        self.pass_(1)
        stopped = self.copier.stop(5)
        self.assertNoResult(stopped)
        for go in self.bus.held:
            go()
        self.bus.held = None
        self.clock.advance(0)
        self.pass_(0.1)
        self.assertTrue(self.successResultOf(stopped))
        self.assertEqual((len(self.list.events), len(self.list.taken)), (5, 0))
        other = self.makeCopier(name="other")
        other.start()
        self.pass_(0.5)
        self.assertCopied(trackRecords(0, 15))

    def test_stopCutShort(self) -> None:
        """
        A stop that waits for the bus in vain ends in time, says so, and leaves what was taken to the next.
        """
        records = trackRecords(0, 5)
        self.put(records)
        self.bus.held = []
        self.copier.start()
        self.pass_(1)
        stopped = self.copier.stop(2)
        self.pass_(2.5)
        self.assertFalse(self.successResultOf(stopped))
        self.assertEqual(len(self.list.taken), 5)
        self.bus.held = None
        self.makeCopier(name="other").start()
        self.pass_(1)
        self.assertCopied(records)

    def test_stopWhileStandingBy(self) -> None:
        """
        One that has no list stops at once, and another's stays his.
        """
        self.list.reader, self.list.until = "other", 1000.0
        self.copier.start()
        self.pass_(1)
        self.assertTrue(self.successResultOf(self.copier.stop(5)))
        self.assertEqual((self.list.reader, self.list.until), ("other", 1000.0))
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])

    def test_stopWhileBusRefuses(self) -> None:
        """
        A stop does not go on sending again what the bus refuses.
        """
        self.put(trackRecords(0, 5))
        self.bus.fault = lambda topic, partition, given: BusError("it is away")
        self.copier.start()
        self.pass_(1)
        stopped = self.copier.stop(20)
        self.pass_(2)
        self.assertFalse(self.successResultOf(stopped))
        self.assertEqual(len(self.list.taken), 5)
