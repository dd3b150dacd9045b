"""
Tests for L{binaryserver.tools.box_store} and L{binaryserver.tools.box_window}.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import ConfigError
from binaryserver.tools.box_payload import PayloadForm, Tape
from binaryserver.tools.box_store import Batch, Recording, StateDirectory, TrackStore
from binaryserver.tools.box_window import AckOrder, Window

NOW_MS = 1_790_000_000_000


class StoreMachine(RuleBasedStateMachine):
    """
    A store beside a model of it: the set of unacked indices, and those that were ever sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store = TrackStore(1)
        self.unacked: set[int] = set()
        self.sent: set[int] = set()
        self.now = NOW_MS

    @rule(count=st.integers(0, 20), gap=st.integers(0, 3))
    def record(self, count: int, gap: int) -> None:
        """
        New tracks come in, now and then behind an index that somebody else used.
        """
        self.now += 10_000
        after = self.store.next - 1 + gap
        first = max(self.store.next, after + 1)
        self.store.record(count, self.now, 1000, after)
        self.unacked |= set(range(first, first + count))
        assert self.store.next == first + count

    @precondition(lambda self: self.store.waiting)
    @rule(limit=st.integers(1, 7))
    def take(self, limit: int) -> None:
        """
        A batch is consecutive, at most as long as asked for, and says how much of it is sent for another time.
        """
        head = self.store.head()
        batch, again = self.store.take(limit)
        indices = set(range(batch.first, batch.end))
        assert head == batch.first and 1 <= len(indices) <= limit
        assert indices <= self.unacked
        assert again == len(indices & self.sent)
        self.sent |= indices

    @precondition(lambda self: self.store.taken)
    @rule(choice=st.integers(0))
    def ack(self, choice: int) -> None:
        """
        Any batch that is taken may be acked.
        """
        batch = list(self.store.taken.values())[choice % len(self.store.taken)]
        assert self.store.ack(batch) == batch.end - batch.first
        self.unacked -= set(range(batch.first, batch.end))

    @rule()
    def putBack(self) -> None:
        """
        All that was taken waits again.
        """
        self.store.putBack()
        assert not self.store.taken

    @rule(lastIndex=st.integers(0, 200))
    def drop(self, lastIndex: int) -> None:
        """
        Dropped is what waits, was sent, and is covered.
        """
        taken = {index for batch in self.store.taken.values() for index in range(batch.first, batch.end)}
        gone = {index for index in self.unacked - taken if index <= lastIndex and index in self.sent}
        assert self.store.drop(lastIndex) == len(gone)
        self.unacked -= gone

    @invariant()
    def counts(self) -> None:
        """
        Nothing is lost, nothing is there twice.
        """
        taken = sum(batch.end - batch.first for batch in self.store.taken.values())
        assert self.store.waiting + taken == len(self.unacked)
        assert self.store.acked == min(self.unacked, default=self.store.next) - 1


class StoreTests(SynchronousTestCase):
    """
    The store of one box.
    """

    def test_machine(self) -> None:
        """
        Whatever is done to a store in whatever order, it loses nothing and has nothing twice.
        """
        run_state_machine_as_test(StoreMachine)

    def test_times(self) -> None:
        """
        A later recording begins behind the earlier one, even where its steps have to shrink for it.
        """
        store = TrackStore(1)
        store.record(100, NOW_MS, 1000)
        store.record(100, NOW_MS + 5000, 1000)
        store.record(10, NOW_MS + 5000, 1000)
        recordings = [store.take(100)[0].recording for _ in range(3)]
        self.assertEqual(
            [(each.startMs, each.stepMs) for each in recordings],
            [(NOW_MS - 99_000, 1000), (NOW_MS + 50, 50), (NOW_MS + 5001, 1)],
        )

    def test_loadedIsDroppable(self) -> None:
        """
        What an earlier run left may have arrived: an index drops it although this run has not sent it.
        """
        store = TrackStore(9)
        store.record(10, NOW_MS, 1000)
        self.assertEqual(store.drop(4), 0)
        again = TrackStore.fromJson(store.toJson())
        again.record(5, NOW_MS + 60_000, 1000)
        self.assertEqual((again.drop(12), again.waiting, again.head()), (10, 5, 11))

    def test_mergedAgain(self) -> None:
        """
        What is put back is one stretch again, and can be cut anew.
        """
        store = TrackStore(1)
        store.record(10, NOW_MS, 1000)
        for _ in range(3):
            store.take(2)
        store.putBack()
        batch, again = store.take(8)
        self.assertEqual((batch.first, batch.end, again), (1, 9, 6))

    def test_spoiled(self) -> None:
        """
        What is no state raises ValueError and nothing else.
        """
        store = TrackStore(5)
        store.record(3, NOW_MS, 1000)
        good = store.toJson()
        entry = good["unacked"][0]  # type: ignore[index]
        changes: tuple[dict[str, object], ...] = (
            {"stream": 0},
            {"stream": "5"},
            {"stream": 1 << 64},
            {"next": None},
            {"unacked": 3},
            {"unacked": [{}]},
            {"unacked": [entry, entry]},
            {"unacked": [{**entry, "end": 99}]},
            {"unacked": [{**entry, "recording": {}}]},
        )
        for change in changes:
            self.assertRaises(ValueError, TrackStore.fromJson, {**good, **change})

    def test_directory(self) -> None:
        """
        What cannot be read or made names the option.
        """
        folder = Path(self.mktemp())
        state = StateDirectory(str(folder))
        self.assertIs(state.load("", "box"), None)
        for text in ("", "[]", "{}", '{"account": ""}', "\0"):
            (folder / "box.json").write_text(text)
            error = self.assertRaises(ConfigError, state.load, "", "box")
            self.assertIn("--state", str(error))
        (folder / "dir.json").mkdir()
        self.assertRaises(ConfigError, state.load, "", "dir")
        self.assertRaises(ConfigError, StateDirectory, str(folder / "box.json"))
        self.assertRaises(ConfigError, state.save, "", "dir", TrackStore(1))
        self.assertEqual(list(folder.glob("*.part")), [])


class WindowTests(SynchronousTestCase):
    """
    Packet ids and the order of acks.
    """

    def window(self, qos: int = 1) -> Window:
        """
        An empty one.
        """
        return Window(Tape("box", 1, PayloadForm.PROTO), qos)

    def batch(self, first: int) -> Batch:
        """
        One track.
        """
        return Batch(first, first + 1, Recording(1, NOW_MS, 1000, 0))

    def test_ids(self) -> None:
        """
        Ids go round, never 0, and leave out what is in flight.
        """
        window = self.window()
        window.publish(self.batch(1), 0.0)
        window.publish(self.batch(2), 0.0)
        del window.entries[1]
        ids = [window.nextId() for _ in range(65535)]
        self.assertEqual(ids[0], 3)
        self.assertEqual(ids[65532:], [65535, 1, 3])
        self.assertNotIn(0, ids)
        self.assertNotIn(2, ids)

    @given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 30))
    def test_order(self, swaps: list[int], count: int) -> None:
        """
        Every PUBLISH has one ack that is expected; acks in the order of sending are in order, all others are not.
        """
        window = self.window()
        for index in range(count):
            window.publish(self.batch(index + 1), 0.0)
        waiting = list(range(1, count + 1))
        for packetId in swaps:
            expected = AckOrder.unexpected
            if packetId in waiting:
                expected = AckOrder.inOrder if waiting[0] == packetId else AckOrder.outOfOrder
                waiting.remove(packetId)
            self.assertIs(window.order(packetId, False), expected)

    def test_copies(self) -> None:
        """
        At QoS 1 each copy has an ack of its own; at QoS 2 copies share one.
        """
        for qos, verdicts in ((1, ["inOrder", "inOrder", "unexpected"]), (2, ["inOrder", "unexpected", "unexpected"])):
            window = self.window(qos)
            window.publish(self.batch(1), 0.0)
            window.again(window.entries[1], 1.0)
            self.assertEqual([window.order(1, qos == 2).name for _ in range(3)], verdicts)

    def test_overdue(self) -> None:
        """
        What was sent last before a time is overdue; a copy sets it back.
        """
        window = self.window()
        window.publish(self.batch(1), 1.0)
        window.publish(self.batch(2), 2.0)
        self.assertEqual(window.overdue(1.5), [window.entries[1]])
        window.again(window.entries[1], 3.0)
        self.assertEqual(window.overdue(1.5), [])
