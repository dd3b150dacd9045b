"""
Tests for L{binaryserver.session.index}.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.session.index import MAX_JUMP, Judgement, Stream, Taken, Verdict


def take(stream: Stream, first: int, last: int, latest: int = 0) -> Taken:
    """
    Take the run C{first..last}, which must be fresh.
    """
    times = [latest] * (last - first + 1)
    assert stream.judge(first, times).verdict is Verdict.fresh
    run = Taken(stream, last, latest)
    stream.take(run)
    return run


class JudgeTests(SynchronousTestCase):
    """
    L{Stream.judge}.
    """

    def test_firstRunIsFreshWhereverItBegins(self) -> None:
        """
        Of a stream that nobody knows, any index is the first: no hole, no jump.
        """
        self.assertEqual(Stream(7).judge(123_456_789_012, [1]), Judgement(Verdict.fresh))

    def test_nextRunIsFresh(self) -> None:
        """
        The index behind the last one taken is new.
        """
        stream = Stream(7, committed=10)
        self.assertEqual(stream.judge(11, [1, 2]), Judgement(Verdict.fresh))

    def test_holeIsFreshAndCounted(self) -> None:
        """
        A run that begins later is taken, with the number of indices left out.
        """
        stream = Stream(7, committed=10)
        self.assertEqual(stream.judge(14, [1]), Judgement(Verdict.fresh, 0, 3))

    def test_jumpIsToldFromAHole(self) -> None:
        """
        Exactly L{MAX_JUMP} missing indices are still a hole; one more is a corrupt index.
        """
        stream = Stream(7, committed=10)
        self.assertEqual(stream.judge(11 + MAX_JUMP, [1]).verdict, Verdict.fresh)
        self.assertEqual(stream.judge(12 + MAX_JUMP, [1]).verdict, Verdict.jump)

    def test_committedIsDuplicate(self) -> None:
        """
        At or below the mark, recorded no later than what it covers.
        """
        stream = Stream(7, committed=10, latest=1000)
        self.assertEqual(stream.judge(9, [999, 1000]).verdict, Verdict.duplicate)

    def test_committedButRecordedLaterIsRejected(self) -> None:
        """
        A box whose counter fell back must not be silenced: its new tracks are no duplicates.
        """
        stream = Stream(7, committed=10, latest=1000)
        self.assertEqual(stream.judge(9, [999, 1001]).verdict, Verdict.lateDuplicate)

    def test_betweenTheMarksWaits(self) -> None:
        """
        Taken and not committed: the first copy's fate decides.
        """
        stream = Stream(7, committed=10)
        take(stream, 11, 15, 1000)
        self.assertEqual(stream.judge(11, [1000] * 5).verdict, Verdict.inFlight)
        self.assertEqual(stream.judge(9, [1000] * 7).verdict, Verdict.inFlight)
        self.assertEqual(stream.judge(11, [1001]).verdict, Verdict.lateDuplicate)

    def test_partlyDuplicate(self) -> None:
        """
        The new tail is taken, what was taken before is skipped.
        """
        stream = Stream(7, committed=10, latest=1000)
        self.assertEqual(stream.judge(9, [998, 999, 2000, 3000]), Judgement(Verdict.fresh, 2, 0))

    def test_partlyDuplicateRecordedLaterIsRejected(self) -> None:
        """
        The part that would be skipped holds other tracks than those that were taken.
        """
        stream = Stream(7, committed=10, latest=1000)
        self.assertEqual(stream.judge(9, [1001, 1002, 2000]).verdict, Verdict.lateDuplicate)


class SettleTests(SynchronousTestCase):
    """
    L{Stream.settle}.
    """

    def test_committedFollowsCommits(self) -> None:
        """
        A commit raises the mark, and the time that it covers.
        """
        stream = Stream(7, committed=10)
        run = take(stream, 11, 15, 1000)
        self.assertEqual(stream.settle(run, True), [run])
        self.assertEqual((stream.committed, stream.latest, run.outcome), (15, 1000, True))

    def test_committedIsUnbroken(self) -> None:
        """
        A later run that commits first waits for the one before it.
        """
        stream = Stream(7, committed=10)
        first, second = take(stream, 11, 15), take(stream, 16, 20)
        self.assertEqual(stream.settle(second, True), [])
        self.assertEqual(stream.committed, 10)
        self.assertEqual(stream.settle(first, True), [first, second])
        self.assertEqual(stream.committed, 20)

    def test_failureFailsAllBehindIt(self) -> None:
        """
        After a failed run every later one has failed too, even one that the bus has taken or will take: else the mark
        would pass over the lost one.
        """
        stream = Stream(7, committed=10)
        first, second, third = take(stream, 11, 15), take(stream, 16, 20), take(stream, 21, 25)
        self.assertEqual(stream.settle(second, True), [])
        self.assertEqual(stream.settle(first, False), [first, second, third])
        self.assertEqual([run.outcome for run in (first, second, third)], [False] * 3)
        self.assertTrue(stream.failed)
        self.assertEqual(stream.settle(third, True), [])
        self.assertFalse(stream.failed)
        self.assertEqual((stream.taken, stream.committed), (10, 10))

    def test_failureOfTheOnlyRunRestarts(self) -> None:
        """
        With nothing else in flight the box may send it again at once.
        """
        stream = Stream(7, committed=10)
        run = take(stream, 11, 15)
        self.assertEqual(stream.settle(run, False), [run])
        self.assertFalse(stream.failed)
        self.assertEqual(stream.judge(11, [1]), Judgement(Verdict.fresh))

    def test_failureBehindACommittedHead(self) -> None:
        """
        What was committed before the failure stays so.
        """
        stream = Stream(7, committed=10)
        first, second = take(stream, 11, 15), take(stream, 16, 20)
        self.assertEqual(stream.settle(first, True), [first])
        self.assertEqual(stream.settle(second, False), [second])
        self.assertEqual((stream.committed, stream.taken), (15, 15))

    def test_waitingRunsShareTheFate(self) -> None:
        """
        A resend is acked when the first copy is durable, not before.
        """
        stream = Stream(7, committed=10)
        first, second = take(stream, 11, 15), take(stream, 16, 20)
        early, late = Taken(stream, 15, 0), Taken(stream, 20, 0)
        stream.wait(early)
        stream.wait(late)
        self.assertEqual(stream.settle(first, True), [first, early])
        self.assertEqual(stream.settle(second, False), [second, late])
        self.assertEqual((early.outcome, late.outcome), (True, False))

    def test_raiseTo(self) -> None:
        """
        Another owner's mark raises both, and lowers neither.
        """
        stream = Stream(7, committed=10, latest=100)
        stream.raiseTo(8, 90)
        self.assertEqual((stream.committed, stream.taken, stream.latest), (10, 10, 100))
        stream.raiseTo(20, 200)
        self.assertEqual((stream.committed, stream.taken, stream.latest, stream.takenLatest), (20, 20, 200, 200))


class ModelTests(SynchronousTestCase):
    """
    The whole of it against a box that sends, resends and loses its link, and a bus that fails at will.
    """

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_nothingIsLostAndNothingAckedThatIsNotOnTheBus(self, data: st.DataObject) -> None:
        """
        Whatever settles in whatever order: C{committed} never passes an index that is not on the bus, every index up to
        it is there, and without a failure each stands there once.
        """
        stream = Stream(7)
        onBus: list[int] = []
        flights: list[tuple[Taken, list[int]]] = []
        nextIndex = 0
        everFailed = False
        for _ in range(data.draw(st.integers(1, 40))):
            action = data.draw(st.sampled_from(["send", "resend", "commit", "fail"]))
            if action in ("send", "resend") and not stream.failed:
                known = max(stream.taken, -1)
                first = (
                    max(0, data.draw(st.integers(max(0, stream.committed - 2), max(0, known))))
                    if action == "resend"
                    else known + 1
                )
                count = data.draw(st.integers(1, 4))
                verdict, skip, missing = stream.judge(first, [0] * count)
                self.assertEqual(missing, 0)
                if verdict is Verdict.fresh:
                    run = Taken(stream, first + count - 1, 0)
                    stream.take(run)
                    flights.append((run, list(range(first + skip, first + count))))
                    nextIndex = max(nextIndex, first + count)
                elif verdict is Verdict.duplicate:
                    self.assertTrue(set(range(first, first + count)) <= set(onBus))
            elif action in ("commit", "fail") and flights:
                run, indices = flights.pop(data.draw(st.integers(0, len(flights) - 1)))
                success = action == "commit"
                everFailed |= not success
                if success:
                    onBus += indices
                for known_ in stream.settle(run, success):
                    if known_.outcome:
                        self.assertLessEqual(known_.lastIndex, stream.committed)
            self.assertTrue(set(range(stream.committed + 1)) <= set(onBus))
        if not everFailed:
            self.assertEqual(len(onBus), len(set(onBus)))
