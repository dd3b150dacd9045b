"""
Sequences of datagrams: order, acks, repetition, bounds, and all of it over a bad network.
"""

from __future__ import annotations

from itertools import chain
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.md21 import codec
from binaryserver.md21.datagrams import (
    ACK_DELAY,
    DOUBT,
    FIRST_WAIT,
    LONGEST_WAIT,
    MAX_ACKS,
    MAX_DATAGRAM,
    MAX_HELD,
    MAX_OWED,
    MAX_QUEUED,
    MAX_SENT,
    TRIES,
    WINDOW,
    Arrival,
    DatagramSequence,
)
from binaryserver.md21.values import Transport

TOKEN = bytes(range(32))
PLENTY = 1 << 30


def sequence() -> DatagramSequence:
    """
    A fresh one.
    """
    return DatagramSequence(TOKEN)


def sent(one: DatagramSequence, now: float, credit: int = PLENTY) -> list[Transport]:
    """
    What it sends now.
    """
    return [cast(Transport, codec.decode(datagram)) for datagram in one.output(now, credit)]


def receive(one: DatagramSequence, datagram: Transport, now: float = 0.0) -> list[bytes]:
    """
    Bring a datagram.

    @return: the PDUs that are given out
    """
    one.heard(now)
    one.acked(datagram.acks)
    if datagram.pdu is not None and one.judge(datagram.sequence, len(datagram.pdu), PLENTY, now) is Arrival.fresh:
        one.take(datagram.sequence, datagram.pdu, now)
    return giveAll(one)


def giveAll(one: DatagramSequence) -> list[bytes]:
    """
    Let it give out what it can.
    """
    return list(iter(one.give, None))


class ReceivingTests(SynchronousTestCase):
    """
    The receiver's side.
    """

    def test_order(self) -> None:
        """
        PDUs are given out in the order of their numbers, whatever order they come in.
        """
        one = sequence()
        given_ = [receive(one, Transport(TOKEN, number, (), b"%d" % number)) for number in (2, 4, 1, 3)]
        self.assertEqual(given_, [[], [], [b"1", b"2"], [b"3", b"4"]])
        self.assertEqual(one.heldBytes, 0)

    def test_duplicates(self) -> None:
        """
        What was given out, or waits to be, is not taken again but acked again.
        """
        one = sequence()
        for number in (1, 3):
            receive(one, Transport(TOKEN, number, (), b"x"))
        self.assertEqual([datagram.acks for datagram in sent(one, ACK_DELAY)], [(1, 3)])
        for number in (1, 3):
            self.assertIs(one.judge(number, 1, PLENTY, 1.0), Arrival.duplicate)
        self.assertEqual([datagram.acks for datagram in sent(one, 1.0 + ACK_DELAY)], [(1, 3)])

    def test_window(self) -> None:
        """
        The last number of the window is kept, the next one is not, before and after the window has moved.
        """
        one = sequence()
        self.assertIs(one.judge(WINDOW, 1, PLENTY, 0), Arrival.fresh)
        self.assertIs(one.judge(WINDOW + 1, 1, PLENTY, 0), Arrival.tooFar)
        receive(one, Transport(TOKEN, 1, (), b"x"))
        self.assertIs(one.judge(WINDOW + 1, 1, PLENTY, 0), Arrival.fresh)
        self.assertIs(one.judge(0xFFFFFFFF, 1, PLENTY, 0), Arrival.tooFar)

    def test_memory(self) -> None:
        """
        What has to wait is kept up to a limit of bytes and to the caller's; the one it waits for is always taken.
        """
        one = sequence()
        half = MAX_HELD // 2
        self.assertIs(one.judge(2, half, half - 1, 0), Arrival.tooMuch)
        for number in (2, 3):
            self.assertIs(one.judge(number, half, half, 0), Arrival.fresh)
            one.take(number, bytes(half), 0)
        self.assertEqual(one.heldBytes, MAX_HELD)
        self.assertIs(one.judge(4, 1, PLENTY, 0), Arrival.tooMuch)
        self.assertIs(one.judge(1, 65_280, 0, 0), Arrival.fresh)
        self.assertEqual([len(pdu) for pdu in receive(one, Transport(TOKEN, 1, (), b"x"))], [1, half, half])

    def test_newest(self) -> None:
        """
        L{DatagramSequence.take} says whether a number is the highest so far.
        """
        one = sequence()
        self.assertEqual([one.take(number, b"x", 0) for number in (2, 1, 5, 4, 6)], [True, False, True, False, True])

    def test_stopsInBetween(self) -> None:
        """
        Who does not ask for more gets no more, and nothing is lost by it.
        """
        one = sequence()
        for number in (2, 3, 1):
            one.take(number, b"%d" % number, 0)
        self.assertEqual(one.give(), b"1")
        self.assertIs(one.judge(2, 1, PLENTY, 0), Arrival.duplicate)
        self.assertEqual(giveAll(one), [b"2", b"3"])


class AckTests(SynchronousTestCase):
    """
    When acks go.
    """

    def test_gathered(self) -> None:
        """
        Acks wait for each other for a short while, and then go alone.
        """
        one = sequence()
        self.assertIsNone(one.deadline())
        receive(one, Transport(TOKEN, 1, (), b"x"), 5.0)
        self.assertEqual(one.deadline(), 5.0 + ACK_DELAY)
        receive(one, Transport(TOKEN, 2, (), b"x"), 5.05)
        self.assertEqual(sent(one, 5.05), [])
        self.assertEqual(sent(one, 5.0 + ACK_DELAY), [Transport(TOKEN, 0, (1, 2))])
        self.assertIsNone(one.deadline())

    def test_piggybacked(self) -> None:
        """
        A PDU takes them along.
        """
        one = sequence()
        receive(one, Transport(TOKEN, 1, (), b"x"))
        one.queue(b"answer")
        self.assertEqual(sent(one, 0), [Transport(TOKEN, 1, (1,), b"answer")])
        self.assertEqual(sent(one, ACK_DELAY), [])

    def test_full(self) -> None:
        """
        As many as fit one datagram do not wait.
        """
        one = sequence()
        for number in range(1, MAX_ACKS + 2):
            receive(one, Transport(TOKEN, number, (), b"x"))
        self.assertEqual([datagram.acks for datagram in sent(one, 0)], [tuple(range(1, MAX_ACKS + 1))])
        self.assertEqual([datagram.acks for datagram in sent(one, ACK_DELAY)], [(MAX_ACKS + 1,)])

    def test_bounded(self) -> None:
        """
        However much is repeated while nothing may be sent, few acks wait; those that are forgotten are owed again with
        the next repetition.
        """
        one = sequence()
        for number in range(1, 1001):
            receive(one, Transport(TOKEN, number, (), b"x"))
        acks = [ack for datagram in sent(one, ACK_DELAY) for ack in datagram.acks]
        self.assertEqual(acks, list(range(1001 - MAX_OWED, 1001)))
        receive(one, Transport(TOKEN, 1, (), b"x"), 1.0)
        self.assertEqual([datagram.acks for datagram in sent(one, 2.0)], [(1,)])

    def test_small(self) -> None:
        """
        No datagram is larger than what every path passes on.
        """
        one = sequence()
        for number in range(1, MAX_ACKS):
            receive(one, Transport(TOKEN, number, (), b"x"))
        one.queue(bytes(MAX_SENT))
        sizes = [len(datagram) for datagram in one.output(ACK_DELAY, PLENTY)]
        self.assertLessEqual(max(sizes), MAX_DATAGRAM)
        self.assertGreater(sizes[0], MAX_SENT + 40)


class SendingTests(SynchronousTestCase):
    """
    The sender's side.
    """

    def test_repeated(self) -> None:
        """
        A datagram is sent again at growing intervals until it is acked.
        """
        one = sequence()
        one.queue(b"x")
        times: list[float] = []
        for step in range(100):
            now = step / 4
            if sent(one, now):
                times.append(now)
            self.assertEqual(one.isDoubtful, len(times) >= DOUBT and now <= 10.0)
            if now == 10.0:
                one.acked([1])
                self.assertFalse(one.isDoubtful)
        self.assertEqual(times, [0.0, 1.0, 3.0, 7.0])
        self.assertEqual(one.resent, 3)
        self.assertIsNone(one.deadline())

    def test_resting(self) -> None:
        """
        To a peer that is silent it is sent so many times and no more; when that is heard again, from the beginning.
        """
        one = sequence()
        one.queue(b"x")
        now, count = 0.0, 0
        while one.deadline() is not None:
            now = one.deadline() or now
            count += len(sent(one, now))
        self.assertEqual(count, TRIES)
        self.assertEqual(now, sum(min(FIRST_WAIT * 2**n, LONGEST_WAIT) for n in range(TRIES)))
        self.assertTrue(one.isDoubtful and one.isLost)
        one.heard(1000.0)
        self.assertFalse(one.isDoubtful or one.isLost)
        self.assertEqual(len(sent(one, 1000.0)), 1)
        one.heard(1000.1)
        self.assertEqual(sent(one, 1000.1), [])
        self.assertEqual(one.deadline(), 1000.0 + 2 * FIRST_WAIT)
        self.assertEqual(one.resent, TRIES)

    def test_window(self) -> None:
        """
        What the peer's window does not reach waits until what holds it is acked.
        """
        one = sequence()
        for _ in range(WINDOW + 10):
            one.queue(b"x")
        self.assertEqual([datagram.sequence for datagram in sent(one, 0)], list(range(1, WINDOW + 1)))
        one.acked([2, 3])
        self.assertEqual(sent(one, 0), [])
        one.acked([1])
        self.assertEqual([datagram.sequence for datagram in sent(one, 0)], [WINDOW + 1, WINDOW + 2, WINDOW + 3])

    def test_falseAcks(self) -> None:
        """
        An ack of what was never sent, or not yet, acks nothing.
        """
        one = sequence()
        one.queue(b"x")
        one.acked([0, 1, 2, 7])
        self.assertEqual([datagram.sequence for datagram in sent(one, 0)], [1])

    def test_bounds(self) -> None:
        """
        What can be queued is bounded in size, number and bytes, and the room is there again after acks.
        """
        one = sequence()
        self.assertTrue(one.mayQueue(MAX_SENT))
        self.assertFalse(one.mayQueue(MAX_SENT + 1))
        for _ in range(MAX_QUEUED):
            self.assertTrue(one.mayQueue(1))
            one.queue(b"x")
        self.assertFalse(one.mayQueue(1))
        sent(one, 0)
        one.acked([1])
        self.assertTrue(one.mayQueue(1))
        large = sequence()
        count = 0
        while large.mayQueue(MAX_SENT):
            large.queue(bytes(MAX_SENT))
            count += 1
        self.assertEqual(count, 65_536 // MAX_SENT)

    def test_credit(self) -> None:
        """
        What the credit does not allow is not sent, and counts as no try.
        """
        one = sequence()
        one.queue(b"x" * 10)
        one.queue(b"y" * 10)
        size = len(codec.encode(Transport(TOKEN, 1, (), b"x" * 10)))
        self.assertEqual(sent(one, 0, size - 1), [])
        self.assertTrue(one.isStarved)
        self.assertEqual([datagram.sequence for datagram in sent(one, 0, 2 * size - 1)], [1])
        self.assertTrue(one.isStarved)
        self.assertEqual([datagram.sequence for datagram in sent(one, 0, size)], [2])
        self.assertFalse(one.isStarved)
        self.assertEqual(one.resent, 0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("queue", "flush")), st.integers(0, 1), st.integers(1, 5)),
        st.tuples(st.sampled_from(("bring", "drop", "double")), st.integers(0, 1), st.integers(0, 63)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 8)),
    ),
    max_size=120,
)


class BadNetworkTests(SynchronousTestCase):
    """
    Two ends, and between them a network that loses, doubles and reorders.
    """

    @settings(max_examples=150, deadline=None)
    @given(ACTIONS)
    def test_delivered(self, actions: list[tuple[str, int, int]]) -> None:
        """
        Each end gets what the other one sent, in order and once, as soon as the network is good again; and at no time
        more than that.
        """
        ends = (sequence(), sequence())
        queued: tuple[list[bytes], list[bytes]] = ([], [])
        got: tuple[list[bytes], list[bytes]] = ([], [])
        onTheWay: tuple[list[Transport], list[Transport]] = ([], [])
        now = 0.0

        def bring(end: int, datagram: Transport) -> None:
            got[end].extend(receive(ends[end], datagram, now))
            self.assertEqual(got[end], queued[1 - end][: len(got[end])])
            self.assertLessEqual(ends[end].heldBytes, MAX_HELD)

        for action, end, number in actions:
            way = onTheWay[end]
            if action == "queue":
                for _ in range(number):
                    pdu = b"%d/%d" % (end, len(queued[end]))
                    self.assertTrue(ends[end].mayQueue(len(pdu)))
                    ends[end].queue(pdu)
                    queued[end].append(pdu)
            elif action == "flush":
                way.extend(sent(ends[end], now))
            elif action == "wait":
                now += number / 8
            elif way:
                datagram = way[number % len(way)]
                if action != "double":
                    way.remove(datagram)
                if action != "drop":
                    bring(1 - end, datagram)
        for one in ends:
            one.heard(now)
        for _ in range(500):
            for end in (0, 1):
                for datagram in chain(onTheWay[end], sent(ends[end], now)):
                    bring(1 - end, datagram)
                onTheWay[end].clear()
            dues = [due for one in ends if (due := one.deadline()) is not None]
            if not dues:
                break
            now = max(now, min(dues))
        self.assertEqual(list(got), [queued[1], queued[0]])
        self.assertEqual([one.deadline() for one in ends], [None, None])

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 65_280), st.integers(0, 200_000)), max_size=200))
    def test_anything(self, arrivals: list[tuple[int, int, int]]) -> None:
        """
        Whatever numbers and sizes come, what is held and owed stays bounded, and each number is taken once at most.
        """
        one = sequence()
        taken: set[int] = set()
        for number, size, room in arrivals:
            if one.judge(number, size, room, 0) is Arrival.fresh:
                self.assertNotIn(number, taken)
                taken.add(number)
                one.take(number, bytes(size), 0)
                giveAll(one)
            self.assertLessEqual(one.heldBytes, MAX_HELD)
        acks = [ack for datagram in sent(one, ACK_DELAY) for ack in datagram.acks]
        self.assertEqual(len(acks), len(set(acks)))
        self.assertLessEqual(len(acks), MAX_OWED)
        self.assertLessEqual(set(acks), taken)
