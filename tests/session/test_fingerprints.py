"""
Tests for L{binaryserver.session.fingerprints}.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.proto.md30_pb2 import Track, Value
from binaryserver.session.fingerprints import BlockJudgement, Fingerprints, appended, fingerprint
from binaryserver.session.index import Taken


def packed(*numbers: int) -> bytes:
    """
    Fingerprints as they are stored.
    """
    return b"".join(number.to_bytes(8, "big") for number in numbers)


def loaded(*numbers: int, size: int = 1024) -> Fingerprints:
    """
    Those of a box of which the session store knows these.
    """
    known = Fingerprints(size)
    known.load(packed(*numbers))
    return known


def take(known: Fingerprints, *numbers: int) -> Taken:
    """
    Judge a block, and take it as it was judged.
    """
    fresh, awaited = known.judge(numbers)
    block = Taken(known, 0, 0)
    known.take(block, [numbers[at] for at in fresh], awaited)
    return block


class FingerprintTests(SynchronousTestCase):
    """
    L{fingerprint}.
    """

    def test_value(self) -> None:
        """
        It is what it was in earlier releases: the session store keeps it over an upgrade.
        """
        track = Track(
            recorded_at=1_790_000_000_000,
            latitude=488_566_000,
            longitude=-23_522_000,
            field_numbers=[8],
            field_values=[Value(int_value=12)],
        )
        self.assertEqual(f"{fingerprint(track.SerializeToString()):016x}", "867e1d0b1174739c")

    def test_everythingCounts(self) -> None:
        """
        Time, position, fields: a track that differs in one of them is another track.
        """
        tracks = [
            Track(recorded_at=1),
            Track(recorded_at=2),
            Track(recorded_at=1, latitude=0, longitude=0),
            Track(recorded_at=1, field_numbers=[8], field_values=[Value(int_value=1)]),
            Track(recorded_at=1, field_numbers=[9], field_values=[Value(int_value=1)]),
            Track(recorded_at=1, field_numbers=[8], field_values=[Value(bool_value=True)]),
        ]
        self.assertEqual(len({fingerprint(track.SerializeToString()) for track in tracks}), len(tracks))


class AppendedTests(SynchronousTestCase):
    """
    L{appended}.
    """

    def test_whatWasAppendedBefore(self) -> None:
        """
        As far as it is there already, it is not there twice.
        """
        self.assertEqual(appended(packed(1, 2, 3), packed(2, 3, 4), 10), packed(1, 2, 3, 4))
        self.assertEqual(appended(packed(1, 2, 3), packed(1, 2), 10), packed(1, 2, 3, 1, 2))

    def test_bytesThatOnlyLookLikeIt(self) -> None:
        """
        What stands across two fingerprints is none.
        """
        one, other = 0x0000000100000002, 0x0000000200000001
        between = 0x0000000200000002
        self.assertEqual(appended(packed(between), packed(one, other), 10), packed(between, one, other))
        crossing = packed(1 << 56, 0)
        self.assertEqual(appended(packed(0), crossing, 10), packed(0) + crossing)

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 3), max_size=9), st.lists(st.integers(0, 3), max_size=9), st.integers(1, 6))
    def test_model(self, known: list[int], more: list[int], window: int) -> None:
        """
        As said in plain words.
        """
        new = more[-window:]
        there = max(count for count in range(len(new) + 1) if known[len(known) - count :] == new[:count])
        wanted = [*known, *new[there:]][-window:]
        self.assertEqual(appended(packed(*known), packed(*more), window), packed(*wanted))


class JudgeTests(SynchronousTestCase):
    """
    L{Fingerprints.judge}.
    """

    def test_new(self) -> None:
        """
        What nobody has seen is fresh, at its position.
        """
        self.assertEqual(loaded().judge([5, 6]), BlockJudgement([0, 1], set()))

    def test_committed(self) -> None:
        """
        What the session store knows is not, whatever block it comes in.
        """
        self.assertEqual(loaded(1, 2, 3).judge([9, 2, 8, 1]), BlockJudgement([0, 2], set()))

    def test_inFlight(self) -> None:
        """
        What is taken and not committed is neither: its ack waits for the first copy.
        """
        known = loaded()
        take(known, 1, 2)
        self.assertEqual(known.judge([2, 3]), BlockJudgement([1], {2}))

    def test_twiceInOneBlock(self) -> None:
        """
        The first one is published, and the block does not wait for itself.
        """
        known = loaded()
        self.assertEqual(known.judge([7, 8, 7]), BlockJudgement([0, 1], set()))
        block = take(known, 7, 8, 7)
        self.assertEqual(known.settle(block, True), [block])
        self.assertEqual(known.toWrite(), packed(7, 8))

    def test_everyBucketToItsEdge(self) -> None:
        """
        The window holds exactly the last so many, wherever they are kept in it.
        """
        known = loaded(size=50)
        numbers = [number * 0x9E3779B97F4A7C15 & (1 << 64) - 1 for number in range(120)]
        for start in range(0, 120, 7):
            known.settle(take(known, *numbers[start : start + 7]), True)
        self.assertEqual(known.judge(numbers).fresh, list(range(70)))

    def test_bytesThatOnlyLookLikeIt(self) -> None:
        """
        What stands across two fingerprints of one bucket is none.
        """
        known = loaded(0x1111111122222220, 0x3333333044444440)
        self.assertEqual(known.judge([0x2222222033333330]).fresh, [0])
        known = loaded(0, 1 << 63)
        self.assertEqual(known.judge([0x80]).fresh, [0])
        self.assertEqual(known.judge([0x80 << 4]).fresh, [0])


class SettleTests(SynchronousTestCase):
    """
    L{Fingerprints.settle}.
    """

    def test_commit(self) -> None:
        """
        Nothing enters before its commit.
        """
        known = loaded()
        block = take(known, 1, 2)
        self.assertEqual((known.toWrite(), known.isSettled), (b"", False))
        self.assertEqual(known.settle(block, True), [block])
        self.assertEqual((block.outcome, known.toWrite(), known.isSettled), (True, packed(1, 2), True))
        self.assertEqual(known.judge([1, 2]).fresh, [])

    def test_failure(self) -> None:
        """
        What failed is new when it comes again.
        """
        known = loaded()
        block = take(known, 1, 2)
        self.assertEqual(known.settle(block, False), [block])
        self.assertEqual((block.outcome, known.toWrite()), (False, b""))
        self.assertEqual(known.judge([1, 2]), BlockJudgement([0, 1], set()))

    def test_waitsForTheFirstCopy(self) -> None:
        """
        A resend, whole or with new ones, is acked by what the first copy became of, and its own.
        """
        known = loaded()
        first, whole, mixed = take(known, 1, 2), take(known, 1, 2), take(known, 2, 3)
        self.assertEqual(known.settle(mixed, True), [])
        self.assertEqual(known.settle(first, True), [first, whole, mixed])
        self.assertEqual([block.outcome for block in (first, whole, mixed)], [True] * 3)

    def test_waitsForSeveral(self) -> None:
        """
        A block cut across two others waits for both, in whatever order they come.
        """
        known = loaded()
        one, other, across = take(known, 1, 2), take(known, 3, 4), take(known, 2, 3)
        self.assertEqual(known.settle(other, True), [other])
        self.assertEqual(known.settle(one, True), [one, across])

    def test_failureFailsWhoWaits(self) -> None:
        """
        Of a block that waited for what failed nothing is acked; its own tracks are on the bus all the same.
        """
        known = loaded()
        first, whole, mixed = take(known, 1, 2), take(known, 1, 2), take(known, 2, 3)
        self.assertEqual(known.settle(first, False), [first, whole, mixed])
        self.assertEqual([block.outcome for block in (first, whole, mixed)], [False] * 3)
        self.assertEqual(known.settle(mixed, True), [])
        self.assertFalse(mixed.outcome)
        self.assertEqual(known.judge([1, 2, 3]), BlockJudgement([0, 1], set()))

    def test_goneLinksDoNotWait(self) -> None:
        """
        What waited for a link that is gone is not given out; what it brought to the bus is noted.
        """
        known = loaded()
        first, whole, mixed = take(known, 1, 2), take(known, 1, 2), take(known, 2, 3)
        known.dropWaiting({whole, mixed})
        self.assertEqual(known.settle(first, True), [first])
        self.assertEqual(known.settle(mixed, True), [mixed])
        self.assertEqual(known.toWrite(), packed(1, 2, 3))


class StoreTests(SynchronousTestCase):
    """
    What is to be in the session store.
    """

    def test_writtenUntilItIsThere(self) -> None:
        """
        What failed to be written is written again, with what came since; what was written is not.
        """
        known = loaded()
        known.settle(take(known, 1), True)
        self.assertEqual(known.toWrite(), packed(1))
        known.settle(take(known, 2), True)
        self.assertEqual(known.toWrite(), packed(1, 2))
        known.settle(take(known, 3), True)
        known.written()
        self.assertEqual(known.toWrite(), packed(3))

    def test_storeIsAwayForLong(self) -> None:
        """
        No more waits to be written than the session store would keep.
        """
        known = loaded(size=3)
        for number in range(10):
            known.settle(take(known, number), True)
        self.assertEqual(known.toWrite(), packed(7, 8, 9))

    def test_loadedAgain(self) -> None:
        """
        After another owner: what it added is known, what the store does not have yet is not forgotten, what is in
        flight stays so.
        """
        known = loaded(1)
        known.settle(take(known, 2), True)
        known.toWrite()
        known.settle(take(known, 3), True)
        block = take(known, 4)
        known.load(packed(1, 10, 11))
        self.assertEqual(known.judge([1, 2, 3, 4, 10, 11, 12]), BlockJudgement([6], {4}))
        known.settle(block, True)
        self.assertEqual(known.toWrite(), packed(2, 3, 4))

    def test_writeAgain(self) -> None:
        """
        A store that lost its memory gets all that is known.
        """
        known = loaded(1, 2)
        known.settle(take(known, 3), True)
        known.toWrite()
        known.written()
        known.writeAgain()
        self.assertEqual(known.toWrite(), packed(1, 2, 3))


class ModelTests(SynchronousTestCase):
    """
    The whole of it against a box that sends and resends in any cut, links that go, a bus that fails at will, and a
    process that dies.
    """

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_nothingIsAckedThatIsNotOnTheBus(self, data: st.DataObject) -> None:
        """
        Whatever settles in whatever order: a block succeeds once all its tracks are on the bus and not before; it
        fails only if a track of it did; each has one fate; none is left without once all has settled; and what the
        window holds is published once, unless a failed flush or a crash before the write came between.
        """
        size = data.draw(st.sampled_from([4, 8, 1000]))
        known = loaded(size=size)
        store = b""
        onBus: list[int] = []
        committed: list[int] = []
        flights: list[tuple[Taken, list[int]]] = []
        blocks: dict[Taken, Sequence[int]] = {}
        dropped: set[Taken] = set()
        failed: set[int] = set()
        for _ in range(data.draw(st.integers(1, 40))):
            action = data.draw(st.sampled_from(["send"] * 4 + ["commit"] * 3 + ["fail", "write", "crash", "drop"]))
            if action == "send":
                numbers = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=5))
                fresh, awaited = known.judge(numbers)
                inFlight = {number for _, own in flights for number in own}
                window = set(committed[-size:])
                self.assertEqual(set(awaited), set(numbers) & inFlight)
                expected = [n for n in dict.fromkeys(numbers) if n not in inFlight and n not in window]
                self.assertEqual([numbers[at] for at in fresh], expected)
                if fresh or awaited:
                    block = take(known, *numbers)
                    blocks[block] = numbers
                    if fresh:
                        flights.append((block, expected))
                else:
                    self.assertTrue(set(numbers) <= set(onBus))
            elif action in ("commit", "fail") and flights:
                block, own = flights.pop(data.draw(st.integers(0, len(flights) - 1)))
                success = action == "commit"
                if success:
                    onBus += own
                    committed += own
                else:
                    failed.update(own)
                for other in known.settle(block, success):
                    self.assertIsNotNone(other.outcome)
                    whole = blocks.pop(other)
                    if other in dropped:
                        continue
                    if other.outcome:
                        self.assertTrue(set(whole) <= set(onBus))
                    else:
                        self.assertTrue(set(whole) & failed)
            elif action == "write":
                store = appended(store, known.toWrite(), size)
                if data.draw(st.booleans()):
                    known.written()
            elif action == "drop":
                gone = {block for block in blocks if data.draw(st.booleans())}
                dropped |= gone
                known.dropWaiting(gone)
            elif action == "crash":
                known = Fingerprints(size)
                known.load(store)
                stored = (int.from_bytes(store[at : at + 8], "big") for at in range(0, len(store), 8))
                committed = list(dict.fromkeys(stored))
                flights.clear()
                blocks.clear()
        for block, _ in flights:
            for other in known.settle(block, True):
                del blocks[other]
        self.assertTrue(known.isSettled)
        self.assertLessEqual(set(blocks), dropped)
