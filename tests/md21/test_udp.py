"""
The UDP side with links that are played by the test: tokens, addresses, limits, silence.
"""

from __future__ import annotations

import secrets
import socket
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.errors import ConfigError
from binaryserver.md21 import codec
from binaryserver.md21.datagrams import ACK_DELAY, FIRST_WAIT, MAX_SENT, TRIES
from binaryserver.md21.udp import Advertised, UdpSide, tokenOf
from binaryserver.md21.udpservice import UdpAddress, UdpService, parseAdvertised
from binaryserver.md21.udpway import (
    AMPLIFICATION,
    BURST,
    HEARD_WITHIN,
    MAX_HELD_IN_ALL,
    RATE,
    UdpWay,
    UplinkPdu,
)
from binaryserver.md21.values import (
    BaseValueAck,
    Disconnect,
    FileAck,
    FileStatus,
    Header,
    HeaderAck,
    HeaderStatus,
    Message,
    MessageAck,
    MessageStatus,
    Pdu,
    Ping,
    Reason,
    Track,
    TrackingAck,
    TrackingData,
    Transport,
    WantAck,
)

HOME = ("192.0.2.1", 4000)
AWAY = ("198.51.100.7", 5000)
ACK = codec.encode(TrackingAck())


class FakeSocket:
    """
    Keeps what is sent.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 2100) -> None:
        self.host, self.port = host, port
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.error: OSError | None = None

    def getHost(self) -> IPv4Address | IPv6Address:
        """
        Where it is bound.
        """
        return (IPv6Address if ":" in self.host else IPv4Address)("UDP", self.host, self.port)

    def write(self, data: bytes, address: tuple[str, int]) -> None:
        """
        Send.
        """
        if self.error is not None:
            raise self.error
        self.sent.append((data, address))


class FakeLink:
    """
    Takes what comes, and answers pings at once.
    """

    def __init__(self) -> None:
        self.isSecure = False
        self.mayTakeDatagram = True
        self.got: list[UplinkPdu] = []
        self.aborted = False
        self.error: Exception | None = None
        self.takes = 1 << 30
        self.way: UdpWay | None = None

    def datagramReceived(self, pdu: UplinkPdu, octets: bytes) -> None:
        """
        Take one.
        """
        if self.error is not None:
            raise self.error
        assert codec.decode(octets) == pdu
        self.got.append(pdu)
        self.takes -= 1
        self.mayTakeDatagram = self.takes > 0
        if isinstance(pdu, Ping) and self.way is not None:
            self.way.answer(codec.encode(Ping(pdu.number, True)))

    def abort(self) -> None:
        """
        It failed.
        """
        self.aborted = True


def block(number: int) -> TrackingData:
    """
    A block of one track.
    """
    return TrackingData(WantAck.ALL_10, (Track(1_700_000_000_000 + number * 1000, 4_885_000, 235_000, ((8, number),)),))


class Rig:
    """
    A side with a socket that sends nowhere.
    """

    def __init__(self, advertised: Advertised | None = None, host: str = "127.0.0.1") -> None:
        self.clock = Clock()
        self.side = UdpSide(self.clock, advertised)
        self.socket = FakeSocket(host)
        self.side.transport = cast(Any, self.socket)

    def open(self) -> tuple[FakeLink, UdpWay]:
        """
        A link with a way.
        """
        link = FakeLink()
        way = self.side.open(link, "127.0.0.1")
        assert way is not None
        link.way = way
        return link, way

    def bring(
        self,
        way: UdpWay,
        number: int,
        pdu: Pdu | bytes | None = None,
        acks: tuple[int, ...] = (),
        address: tuple[str, int] = HOME,
    ) -> bytes:
        """
        A datagram comes.
        """
        octets = pdu if pdu is None or isinstance(pdu, bytes) else codec.encode(pdu)
        datagram = codec.encode(Transport(way.offer.token, number, acks, octets))
        self.side.datagramReceived(datagram, address)
        return datagram

    def sent(self) -> list[tuple[int, tuple[int, ...], Pdu | None, tuple[str, int]]]:
        """
        What was sent since last asked: number, acks, PDU, address.
        """
        found = []
        for datagram, address in self.socket.sent:
            value = codec.decode(datagram)
            assert isinstance(value, Transport)
            found.append((value.sequence, value.acks, codec.decode(value.pdu) if value.pdu else None, address))
        self.socket.sent.clear()
        return found

    def later(self, seconds: float = ACK_DELAY) -> list[tuple[int, tuple[int, ...], Pdu | None, tuple[str, int]]]:
        """
        Let time pass.

        @return: what was sent
        """
        self.clock.advance(seconds)
        return self.sent()


class TokenTests(SynchronousTestCase):
    """
    Who is heard at all.
    """

    def test_tokenOf(self) -> None:
        """
        The token is found without the codec, in all shapes of a datagram; other PDUs show none.
        """
        token = secrets.token_bytes(32)
        for datagram in (
            Transport(token, 0),
            Transport(token, 1, (1, 2), b"x"),
            Transport(token, 0xFFFFFFFF, (), b"x"),
        ):
            self.assertEqual(tokenOf(codec.encode(datagram)), token)
        for other in (TrackingAck(), Ping(7), Header(1, "a" * 40, "b" * 40), block(1)):
            self.assertEqual(tokenOf(codec.encode(other)), b"")
        self.assertEqual(tokenOf(b""), b"")
        self.assertEqual(tokenOf(codec.encode(Transport(token, 0))[:32]), b"")

    def test_unknown(self) -> None:
        """
        A token that was never handed out gets no answer, and is counted.
        """
        rig = Rig()
        _, way = rig.open()
        other = way.offer._replace(token=secrets.token_bytes(32))
        for number in (0, 1):
            pdu = codec.encode(Ping(1)) if number else None
            rig.side.datagramReceived(codec.encode(Transport(other.token, number, (), pdu)), HOME)
        self.assertEqual(rig.later(100), [])
        self.assertEqual(rig.side.counters.foreign, 2)

    def test_void(self) -> None:
        """
        A token ends with its link: no datagram of it is taken or answered, and nothing is sent again.
        """
        rig = Rig()
        link, way = rig.open()
        rig.bring(way, 1, block(1))
        way.answer(ACK)
        self.assertEqual(len(rig.sent()), 1)
        way.close()
        rig.bring(way, 2, block(2))
        rig.bring(way, 1, block(1))
        self.assertEqual(rig.later(100), [])
        self.assertEqual(link.got, [block(1)])
        self.assertEqual(rig.side.counters.foreign, 2)
        self.assertFalse(way.send(ACK))
        way.answer(ACK)
        way.resume()
        way.close()
        self.assertEqual(rig.later(100), [])

    def test_own(self) -> None:
        """
        Each link has a token of its own, and what comes with it is that link's.
        """
        rig = Rig()
        (link, way), (other, otherWay) = rig.open(), rig.open()
        self.assertNotEqual(way.offer.token, otherWay.offer.token)
        rig.bring(way, 1, block(1))
        rig.bring(otherWay, 1, block(2))
        self.assertEqual((link.got, other.got), ([block(1)], [block(2)]))

    def test_stopped(self) -> None:
        """
        When the socket closes every token is void, no timer is left, and no new way is made.
        """
        rig = Rig()
        _, way = rig.open()
        rig.bring(way, 1, block(1))
        rig.side.stopProtocol()
        self.assertFalse(way.isOpen)
        self.assertEqual(rig.clock.getDelayedCalls(), [])
        self.assertIsNone(rig.side.open(FakeLink(), "127.0.0.1"))

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=80), st.booleans(), st.integers(0, 700))
    def test_garbage(self, garbage: bytes, isOurs: bool, flip: int) -> None:
        """
        Bytes that are no datagram of ours, and datagrams with a bit changed: nothing is raised, no link is harmed,
        and at most what is intact comes out.
        """
        rig = Rig()
        link, way = rig.open()
        datagram = bytearray(codec.encode(Transport(way.offer.token, 1, (1,), codec.encode(block(1)))))
        if isOurs:
            datagram[flip // 8 % len(datagram)] ^= 1 << flip % 8
            rig.side.datagramReceived(bytes(datagram), HOME)
            rig.side.datagramReceived(way_(way) + garbage, HOME)
        else:
            rig.side.datagramReceived(garbage, HOME)
        rig.clock.advance(1)
        self.assertFalse(link.aborted)
        self.assertLessEqual(len(link.got), 2)
        self.assertEqual(self.flushLoggedErrors(), [])


def way_(way: UdpWay) -> bytes:
    """
    The beginning of a datagram that has the token.
    """
    return codec.encode(Transport(way.offer.token, 0))[:33]


class ContentTests(SynchronousTestCase):
    """
    What may come, and how it is answered.
    """

    def test_tracks(self) -> None:
        """
        Blocks are taken once, in order, and acked; the datagram with a TrackingAck acks the block's datagram too.
        """
        rig = Rig()
        link, way = rig.open()
        rig.bring(way, 2, block(2))
        rig.bring(way, 1, block(1))
        rig.bring(way, 1, block(1))
        self.assertEqual(link.got, [block(1), block(2)])
        way.answer(ACK)
        self.assertEqual(rig.sent(), [(1, (2, 1), TrackingAck(), HOME)])
        self.assertEqual(rig.later(), [])
        counters = rig.side.counters
        self.assertEqual((counters.taken, counters.duplicates, counters.sent), (2, 1, 1))
        self.assertEqual(rig.side.heldBytes, 0)

    def test_welcome(self) -> None:
        """
        Tracks, messages, their acks and pings come by datagram; a ping is answered the same way.
        """
        rig = Rig()
        link, way = rig.open()
        welcome: tuple[UplinkPdu, ...] = (
            block(1),
            Message(5, 0, "dash", b"x"),
            MessageAck(MessageStatus.ACK, 3),
            Ping(9),
        )
        for number, pdu in enumerate(welcome, 1):
            rig.bring(way, number, pdu)
        self.assertEqual(link.got, list(welcome))
        self.assertEqual(rig.sent(), [(1, (1, 2, 3, 4), Ping(9, True), HOME)])

    def test_unwelcome(self) -> None:
        """
        A transport inside another, what belongs on TCP, what only servers send, and what cannot be read get no answer,
        take no number, and do no harm.
        """
        rig = Rig()
        link, way = rig.open()
        unwelcome: tuple[Pdu | bytes, ...] = (
            Transport(way.offer.token, 1, (), codec.encode(Ping(1))),
            Header(1, "asset", "account"),
            HeaderAck(HeaderStatus.OK),
            Disconnect(Reason.COLD_BOOT),
            BaseValueAck(1),
            TrackingAck(),
            FileAck(1, 0, FileStatus.OK),
            b"\xff\xff",
        )
        for pdu in unwelcome:
            rig.bring(way, 1, pdu)
        self.assertEqual(rig.later(10), [])
        self.assertEqual(link.got, [])
        self.assertEqual((rig.side.counters.unwelcome, rig.side.counters.malformed), (7, 1))
        rig.bring(way, 1, Ping(1))
        self.assertEqual(link.got, [Ping(1)])

    def test_ackAlone(self) -> None:
        """
        What needs no PDU in answer is acked alone, a little later.
        """
        rig = Rig()
        _, way = rig.open()
        rig.bring(way, 1, MessageAck(MessageStatus.ACK, 3))
        self.assertEqual(rig.later(ACK_DELAY / 2), [])
        self.assertEqual(rig.later(ACK_DELAY / 2), [(0, (1,), None, HOME)])

    def test_sentAgain(self) -> None:
        """
        What the box does not ack is sent again, and no more once it is acked.
        """
        rig = Rig()
        _, way = rig.open()
        rig.bring(way, 1, block(1))
        way.answer(ACK)
        self.assertEqual([one[0] for one in rig.sent()], [1])
        self.assertEqual([one[0] for one in rig.later(1.0)], [1])
        rig.bring(way, 0, None, (1,))
        self.assertEqual(rig.later(100), [])
        self.assertEqual(rig.side.counters.resent, 1)
        self.assertEqual(rig.clock.getDelayedCalls(), [])

    def test_silent(self) -> None:
        """
        A box that has fallen silent is left in peace after a while, and has what it missed when it is back.
        """
        rig = Rig()
        link, way = rig.open()
        for number in range(1, 11):
            rig.bring(way, number, block(number))
        rig.later()
        way.answer(ACK)
        for _ in range(100):
            rig.clock.advance(1)
        self.assertEqual(len(rig.sent()), TRIES)
        self.assertEqual(rig.clock.getDelayedCalls(), [])
        rig.bring(way, 11, block(11), (), AWAY)
        self.assertEqual(rig.sent(), [(1, (11,), TrackingAck(), AWAY)])
        self.assertEqual(len(link.got), 11)

    def test_unforeseen(self) -> None:
        """
        A link that fails at a datagram is let go, the others are not touched.
        """
        rig = Rig()
        (link, way), (other, otherWay) = rig.open(), rig.open()
        link.error = RuntimeError("the test's")
        rig.bring(way, 1, block(1))
        rig.bring(otherWay, 1, block(1))
        self.assertEqual((link.aborted, way.isOpen, other.got), (True, False, [block(1)]))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_unforeseenLater(self) -> None:
        """
        The same when it goes on after a pause, for which another link may have made room.
        """
        rig = Rig()
        link, way = rig.open()
        link.takes = 1
        rig.bring(way, 2, block(2))
        rig.bring(way, 1, block(1))
        link.mayTakeDatagram, link.error = True, RuntimeError("the test's")
        way.resume()
        self.assertEqual((link.aborted, way.isOpen, rig.side.heldBytes), (True, False, 0))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class PauseTests(SynchronousTestCase):
    """
    A link that is not read (G7).
    """

    def test_notAcked(self) -> None:
        """
        What comes meanwhile is not acked, however often it comes; it is given when the link goes on, and acked then.
        """
        rig = Rig()
        link, way = rig.open()
        link.mayTakeDatagram = False
        for _ in range(3):
            rig.bring(way, 1, block(1))
            rig.bring(way, 2, block(2))
        self.assertEqual(rig.later(10), [])
        self.assertEqual(link.got, [])
        link.mayTakeDatagram = True
        way.resume()
        self.assertEqual(link.got, [block(1), block(2)])
        self.assertEqual(rig.later(), [(0, (1, 2), None, HOME)])
        self.assertEqual(rig.side.heldBytes, 0)

    def test_dropped(self) -> None:
        """
        Only a little is kept meanwhile; what has no room is dropped, and taken when the box sends it again.
        """
        rig = Rig()
        link, way = rig.open()
        link.mayTakeDatagram = False
        large = Message(1, 0, "dash", bytes(50_000))
        for number in (1, 2, 3, 4):
            rig.bring(way, number, large)
        self.assertEqual(rig.side.counters.paused, 2)
        link.mayTakeDatagram = True
        way.resume()
        self.assertEqual(len(link.got), 2)
        rig.bring(way, 3, large)
        self.assertEqual(len(link.got), 3)

    def test_acksAreHeard(self) -> None:
        """
        A paused link's acks count all the same.
        """
        rig = Rig()
        link, way = rig.open()
        rig.bring(way, 1, block(1))
        way.answer(ACK)
        rig.sent()
        link.mayTakeDatagram = False
        rig.bring(way, 2, block(2), (1,))
        self.assertEqual(rig.later(100), [])

    def test_between(self) -> None:
        """
        A link that pauses at the first of several PDUs gets the others when it goes on, in order.
        """
        rig = Rig()
        link, way = rig.open()
        rig.bring(way, 2, block(2))
        rig.bring(way, 3, block(3))
        link.takes = 1
        rig.bring(way, 1, block(1))
        self.assertEqual(link.got, [block(1)])
        self.assertGreater(rig.side.heldBytes, 0)
        rig.bring(way, 2, block(2))
        self.assertEqual(link.got, [block(1)])
        link.takes, link.mayTakeDatagram = 10, True
        way.resume()
        self.assertEqual(link.got, [block(1), block(2), block(3)])
        self.assertEqual(rig.side.heldBytes, 0)


class AddressTests(SynchronousTestCase):
    """
    Where answers go.
    """

    def test_moved(self) -> None:
        """
        After a NAT has given the box another address, what it sends next tells it.
        """
        rig = Rig()
        _, way = rig.open()
        rig.bring(way, 1, Ping(1))
        rig.bring(way, 2, Ping(2), (1,), AWAY)
        self.assertEqual([one[3] for one in rig.sent()], [HOME, AWAY])
        self.assertEqual([one[3] for one in rig.later(1)], [AWAY])
        self.assertEqual(rig.side.counters.moved, 1)

    def test_replayed(self) -> None:
        """
        A copy of an old datagram from elsewhere changes nothing: it is acked to the box, if at all.
        """
        rig = Rig()
        link, way = rig.open()
        old = rig.bring(way, 1, Ping(1))
        pure = rig.bring(way, 0, None, (1,))
        rig.bring(way, 2, Ping(2), (1, 2))
        rig.bring(way, 0, None, (2,))
        rig.sent()
        for _ in range(50):
            for datagram in (old, pure):
                rig.side.datagramReceived(datagram, AWAY)
        self.assertEqual({one[3] for one in rig.later(1)}, {HOME})
        self.assertEqual(link.got, [Ping(1), Ping(2)])
        self.assertEqual(rig.side.counters.moved, 0)

    def test_replayedFirst(self) -> None:
        """
        The same with an older number that comes late for the first time: it is taken, the address stays.
        """
        rig = Rig()
        link, way = rig.open()
        rig.bring(way, 2, Ping(2))
        rig.bring(way, 1, Ping(1), (), AWAY)
        self.assertEqual(link.got, [Ping(1), Ping(2)])
        self.assertEqual({one[3] for one in rig.sent()}, {HOME})

    def test_silentBeforeSpokenTo(self) -> None:
        """
        Nothing is sent before the box has shown its address with a PDU.
        """
        rig = Rig()
        _, way = rig.open()
        rig.bring(way, 0, None, (1,))
        self.assertFalse(way.send(ACK))
        self.assertEqual(rig.later(10), [])

    def test_stale(self) -> None:
        """
        After a while of silence what may go by TCP does, while answers are tried all the same.
        """
        rig = Rig()
        _, way = rig.open()
        rig.bring(way, 1, block(1))
        rig.later()
        self.assertTrue(way.send(ACK))
        rig.bring(way, 0, None, (1,))
        rig.later(HEARD_WITHIN + 1)
        self.assertFalse(way.isReachable)
        self.assertFalse(way.send(ACK))
        way.answer(ACK)
        self.assertEqual([one[0] for one in rig.sent()], [2])
        rig.bring(way, 2, block(2))
        self.assertTrue(way.isReachable)

    def test_doubtful(self) -> None:
        """
        A box that is heard and acks nothing gets by TCP what may go there.
        """
        rig = Rig()
        _, way = rig.open()
        for number in range(1, 20):
            rig.bring(way, number, block(number))
        self.assertTrue(way.send(ACK))
        rig.later(FIRST_WAIT)
        self.assertTrue(way.send(ACK))
        rig.later(2 * FIRST_WAIT)
        self.assertFalse(way.send(ACK))
        rig.bring(way, 0, None, (1, 2))
        self.assertTrue(way.send(ACK))


class BoundTests(SynchronousTestCase):
    """
    No amplification, and bounds.
    """

    def test_amplification(self) -> None:
        """
        However much there is to send, an address gets at most a small multiple of what came from it; the rest follows
        as it sends more.
        """
        rig = Rig()
        _, way = rig.open()
        came = len(rig.bring(way, 1, Ping(1)))
        rig.sent()
        while way.send(bytes(MAX_SENT)):
            pass
        rig.clock.advance(50)
        total = sum(len(datagram) for datagram, _ in rig.socket.sent)
        self.assertLessEqual(total, AMPLIFICATION * came)
        self.assertTrue(way.isOpen)
        rig.socket.sent.clear()
        for number in range(2, 30):
            came += len(rig.bring(way, number, block(number)))
        total += sum(len(datagram) for datagram, _ in rig.socket.sent)
        self.assertGreater(total, MAX_SENT)
        self.assertLessEqual(total, AMPLIFICATION * came)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 70), st.integers(0, 2), st.integers(0, 600), st.integers(0, 3), st.integers(0, 40)
            ),
            max_size=60,
        )
    )
    def test_neverAmplifies(self, steps: list[tuple[int, int, int, int, int]]) -> None:
        """
        Whatever comes from wherever, and whatever there is to send: each address gets at most a small multiple of what
        it sent, and one that sent nothing gets nothing.
        """
        rig = Rig()
        link, way = rig.open()
        came: dict[tuple[str, int], int] = {}
        for number, place, size, sends, wait in steps:
            address = ("192.0.2.1", 4000 + place)
            pdu = Message(1, 0, "dash", bytes(size)) if number else None
            came[address] = came.get(address, 0) + len(rig.bring(way, number, pdu, (number,), address))
            for _ in range(sends):
                way.send(bytes(size + 1))
                way.answer(ACK)
            rig.clock.advance(wait / 4)
        sent: dict[tuple[str, int], int] = {}
        for datagram, address in rig.socket.sent:
            sent[address] = sent.get(address, 0) + len(datagram)
        for address, size in sent.items():
            self.assertLessEqual(size, AMPLIFICATION * came.get(address, 0))
        self.assertFalse(link.aborted)
        self.assertGreaterEqual(rig.side.heldBytes, 0)
        way.close()
        self.assertEqual(rig.side.heldBytes, 0)

    def test_creditStaysBehind(self) -> None:
        """
        A new address begins without what the old one had earned.
        """
        rig = Rig()
        _, way = rig.open()
        for number in range(1, 40):
            rig.bring(way, number, block(number))
        rig.later()
        came = len(rig.bring(way, 40, block(40), (), AWAY))
        for _ in range(20):
            way.send(bytes(MAX_SENT))
        rig.clock.advance(20)
        away = sum(len(datagram) for datagram, address in rig.socket.sent if address == AWAY)
        self.assertLessEqual(away, AMPLIFICATION * came)

    def test_rate(self) -> None:
        """
        What comes with one token beyond the rate is dropped, and others are not touched.
        """
        rig = Rig()
        (link, way), (other, otherWay) = rig.open(), rig.open()
        for number in range(1, int(BURST) + 101):
            rig.bring(way, number, block(number))
        self.assertEqual(len(link.got), int(BURST))
        self.assertEqual(rig.side.counters.excess, 100)
        rig.bring(otherWay, 1, block(1))
        self.assertEqual(len(other.got), 1)
        rig.clock.advance(0.5)
        for number in range(int(BURST) + 1, int(BURST + RATE)):
            rig.bring(way, number, block(number))
        self.assertAlmostEqual(len(link.got), BURST + RATE / 2, delta=1)

    def test_memory(self) -> None:
        """
        What all ways hold for what is missing before it is bounded; a way that ends gives back what it held.
        """
        rig = Rig()
        large = Message(1, 0, "dash", bytes(60_000))
        ways = [rig.open() for _ in range(200)]
        for _, way in ways:
            rig.bring(way, 2, large)
            rig.bring(way, 3, large)
        self.assertLessEqual(rig.side.heldBytes, MAX_HELD_IN_ALL)
        self.assertGreater(rig.side.heldBytes, MAX_HELD_IN_ALL - 70_000)
        self.assertGreater(rig.side.counters.early, 0)
        link, way = ways[-1]
        rig.bring(way, 1, large)
        self.assertEqual(link.got, [large])
        for _, way in ways:
            way.close()
        self.assertEqual(rig.side.heldBytes, 0)

    def test_tooManyAnswers(self) -> None:
        """
        A box that lets its acks pile up loses its way rather than one of them: the next would be taken for it.
        """
        rig = Rig()
        _, way = rig.open()
        rig.bring(way, 1, block(1))
        for _ in range(1000):
            way.answer(ACK)
        self.assertFalse(way.isOpen)
        self.assertEqual(rig.side.counters.lost, 1)

    def test_roomForAnswers(self) -> None:
        """
        What may go by TCP leaves room for what may not.
        """
        rig = Rig()
        _, way = rig.open()
        rig.bring(way, 1, block(1))
        count = 0
        while way.send(bytes(100)):
            count += 1
        self.assertGreater(count, 100)
        for _ in range(100):
            way.answer(ACK)
        self.assertTrue(way.isOpen)

    def test_socketRefuses(self) -> None:
        """
        What the socket does not take is as lost as others, and sent again.
        """
        rig = Rig()
        _, way = rig.open()
        rig.socket.error = BlockingIOError()
        rig.bring(way, 1, Ping(1))
        self.assertEqual(rig.side.counters.unsent, 1)
        rig.socket.error = None
        self.assertEqual(rig.later(1), [(1, (), Ping(1, True), HOME)])


class OfferTests(SynchronousTestCase):
    """
    What boxes are told.
    """

    def told(self, bound: str, local: str, advertised: Advertised | None = None) -> tuple[str, int] | None:
        """
        Host and port of the offer.
        """
        way = Rig(advertised, bound).side.open(FakeLink(), local)
        return None if way is None else (way.offer.host, way.offer.port)

    def test_told(self) -> None:
        """
        The address that the socket is bound to, or else that of the link's own end; unless an option says another.
        """
        self.assertEqual(self.told("127.0.0.1", "10.0.0.1"), ("127.0.0.1", 2100))
        self.assertEqual(self.told("0.0.0.0", "10.0.0.1"), ("10.0.0.1", 2100))
        self.assertEqual(self.told("::", "10.0.0.1"), ("10.0.0.1", 2100))
        self.assertEqual(self.told("::", "2001:db8::1"), ("2001:db8::1", 2100))
        self.assertEqual(self.told("0.0.0.0", "::ffff:10.0.0.1"), ("10.0.0.1", 2100))
        self.assertEqual(self.told("0.0.0.0", "10.0.0.1", Advertised("udp.example.org")), ("udp.example.org", 2100))
        self.assertEqual(self.told("0.0.0.0", "10.0.0.1", Advertised("192.0.2.9", 9)), ("192.0.2.9", 9))

    def test_notTold(self) -> None:
        """
        No offer where the box could not come.
        """
        self.assertIsNone(self.told("0.0.0.0", "2001:db8::1"))
        self.assertIsNone(self.told("0.0.0.0", "/run/socket"))

    def test_secure(self) -> None:
        """
        No offer to a box whose link TLS protects: its datagrams would go in the clear.
        """
        link = FakeLink()
        link.isSecure = True
        self.assertIsNone(Rig().side.open(link, "127.0.0.1"))

    def test_options(self) -> None:
        """
        The options' forms; with workers each has a port of its own.
        """
        self.assertEqual(UdpAddress.parse("2100"), (2100, ""))
        self.assertEqual(UdpAddress.parse("2100:interface=127.0.0.1", 3), (2103, "127.0.0.1"))
        self.assertEqual(UdpAddress.parse("0:interface=\\:\\:1", 3), (0, "::1"))
        self.assertEqual(UdpAddress.parse("1:interface=::1"), (1, "::1"))
        self.assertEqual(parseAdvertised("udp.example.org"), ("udp.example.org", 0))
        self.assertEqual(parseAdvertised("192.0.2.9:9", 2), ("192.0.2.9", 11))
        self.assertEqual(parseAdvertised("[2001:db8::1]:9"), ("2001:db8::1", 9))
        self.assertEqual(parseAdvertised("2001:db8::1"), ("2001:db8::1", 0))

    def test_badOptions(self) -> None:
        """
        What is none of these names the option and says why.
        """
        for text, worker, words in (
            ("", 0, "a port is a number from 0 to 65535"),
            ("x", 0, "a port is a number"),
            ("65536", 0, "a port is a number"),
            ("65535", 1, "worker 1 would have port 65536"),
            ("1:face=1", 0, "is not PORT[:interface=ADDR]"),
            ("1:interface=localhost", 0, "'localhost' is no IP address"),
            ("1:", 0, "is not PORT[:interface=ADDR]"),
        ):
            error = self.assertRaises(ConfigError, UdpAddress.parse, text, worker)
            self.assertEqual(error.option, "--md21-udp")
            self.assertIn(words, str(error))
        for text, worker in (("", 0), (":1", 0), ("h:0", 0), ("h:65536", 0), ("h:65535", 1), ("[::1]x", 0), ("é", 0)):
            error = self.assertRaises(ConfigError, parseAdvertised, text, worker)
            self.assertEqual(error.option, "--md21-udp-advertise")


class ServiceTests(TestCase):
    """
    Binding, on real sockets.
    """

    async def test_ipv6(self) -> None:
        """
        The same with IPv6.
        """
        from twisted.internet import reactor
        from twisted.internet.task import deferLater

        service = UdpService(reactor, "0:interface=::1", "")
        await service.begin()
        self.addCleanup(service.end)
        link = FakeLink()
        way = service.side.open(link, "::1")
        assert way is not None
        link.way = way
        box = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.addCleanup(box.close)
        box.setblocking(False)
        ping = codec.encode(Transport(way.offer.token, 1, (), codec.encode(Ping(7))))
        box.sendto(ping, (way.offer.host, way.offer.port))
        for _ in range(200):
            if link.got:
                break
            await deferLater(cast(Any, reactor), 0.01)
        self.assertEqual(codec.decode(box.recv(2000)), Transport(way.offer.token, 1, (1,), codec.encode(Ping(7, True))))

    async def test_bound(self) -> None:
        """
        A bound port takes datagrams of every size, empty ones too, and answers; a taken one is refused by name.
        """
        from twisted.internet import reactor
        from twisted.internet.task import deferLater

        service = UdpService(reactor, "0:interface=127.0.0.1", "")
        await service.begin()
        self.addCleanup(service.end)
        link = FakeLink()
        way = service.side.open(link, "127.0.0.1")
        assert way is not None
        link.way = way
        here = (way.offer.host, way.offer.port)
        box = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(box.close)
        box.setblocking(False)
        for _ in range(300):
            box.sendto(b"", here)
        large = Message(1, 0, "dash", bytes(64_000))
        pdus: tuple[UplinkPdu, ...] = (large, Ping(7))
        for number, pdu in enumerate(pdus, 1):
            box.sendto(codec.encode(Transport(way.offer.token, number, (), codec.encode(pdu))), here)
        for _ in range(200):
            if len(link.got) == 2:
                break
            await deferLater(cast(Any, reactor), 0.01)
        self.assertEqual(link.got, [large, Ping(7)])
        answer = codec.decode(box.recv(2000))
        self.assertEqual(answer, Transport(way.offer.token, 1, (1, 2), codec.encode(Ping(7, True))))
        self.assertEqual(service.side.counters.foreign, 300)
        second = UdpService(reactor, f"{here[1]}:interface=127.0.0.1", "")
        error = self.assertRaises(ConfigError, second.begin)
        self.assertEqual(str(error), f"--md21-udp: {here[1]}:interface=127.0.0.1: Address already in use")
        await second.end()

    def test_loopback(self) -> None:
        """
        Where anybody may come in, only loopback may be bound.
        """
        clock = Clock()
        for spec in ("2100", "2100:interface=0.0.0.0", "2100:interface=::", "2100:interface=192.0.2.1"):
            error = self.assertRaises(ConfigError, UdpService, clock, spec, "", 0, "it is open")
            self.assertEqual(str(error), f"--md21-udp: {spec}: it is open")
        for spec in ("2100:interface=127.0.0.1", "2100:interface=::1"):
            UdpService(clock, spec, "", 0, "it is open")
