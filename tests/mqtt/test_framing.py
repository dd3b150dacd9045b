"""
Tests for L{binaryserver.mqtt.framing}.
"""

from __future__ import annotations

import time
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import MalformedPacket, PacketTooLarge, ProtocolViolation
from binaryserver.mqtt import packets
from binaryserver.mqtt.events import Broken, Publish
from binaryserver.mqtt.framing import Framing
from binaryserver.mqtt.packets import Packet
from binaryserver.mqtt.parsers import FIRST_FROM_CLIENT, FROM_CLIENT, FROM_SERVER
from tests.mqtt.samples import AFTER_CONNECT, FROM_CLIENT_TABLE, FROM_SERVER_TABLE, encode

MAX = 262144


class SplitTests(SynchronousTestCase):
    """
    Packets come out the same however their bytes are split.
    """

    def test_everyPacketAtEveryByte(self) -> None:
        """
        Each sample, in two reads split at each byte, gives its packet with the second.
        """
        for table, parsers in ((FROM_CLIENT_TABLE, FROM_CLIENT), (FROM_SERVER_TABLE, FROM_SERVER)):
            for text, packet in table:
                whole = bytes.fromhex(text)
                for at in range(1, len(whole)):
                    framing = Framing(parsers, MAX)
                    self.assertEqual(framing.feed(whole[:at]), [], (text, at))
                    self.assertEqual(framing.feed(whole[at:]), [packet], (text, at))
                    self.assertIsNone(framing.partial)

    def test_byteByByte(self) -> None:
        """
        All samples one after another, a byte a read.
        """
        stream = b"".join(bytes.fromhex(text) for text, _ in FROM_CLIENT_TABLE)
        framing = Framing(FROM_CLIENT, MAX)
        got: list[Packet | Broken] = []
        for at in range(len(stream)):
            got += framing.feed(stream[at : at + 1])
        self.assertEqual(got, [packet for _, packet in FROM_CLIENT_TABLE])

    def test_pipelined(self) -> None:
        """
        All samples in one read, with the beginning of one more.
        """
        stream = b"".join(bytes.fromhex(text) for text, _ in FROM_CLIENT_TABLE)
        framing = Framing(FROM_CLIENT, MAX)
        self.assertEqual(framing.feed(stream + b"\x32"), [packet for _, packet in FROM_CLIENT_TABLE])
        self.assertEqual(framing.partial, b"\x32")

    def test_truncated(self) -> None:
        """
        A sample that ends early waits: no packet, no refusal.
        """
        for text, _ in FROM_CLIENT_TABLE:
            whole = bytes.fromhex(text)
            for at in range(1, len(whole)):
                framing = Framing(FROM_CLIENT, MAX)
                self.assertEqual(framing.feed(whole[:at]), [])
                self.assertEqual(framing.partial, whole[:at])

    def test_everyLengthOfLength(self) -> None:
        """
        Remaining lengths of one to four bytes, split at each byte of the header.
        """
        for size in (0, 124, 125, 16380, 16381, 2097148, 2097149):
            whole = packets.encodePublish("t", bytes(size))
            for at in range(1, 7):
                framing = Framing(FROM_CLIENT, 1 << 28)
                first = framing.feed(whole[:at])
                if at < len(whole):
                    self.assertEqual(first, [])
                    first = framing.feed(whole[at:])
                self.assertEqual(first, [Publish("t", bytes(size), 0, 0, False, False)])

    def test_longerLengthThanNeeded(self) -> None:
        """
        MQTT 3.1.1 does not forbid a length in more bytes than it needs.
        """
        self.assertEqual(len(Framing(FROM_CLIENT, MAX).feed(bytes.fromhex("c0 808080 00"))), 1)
        self.assertEqual(len(Framing(FROM_CLIENT, MAX).feed(bytes.fromhex("40 8200 0001"))), 1)

    @settings(deadline=None)
    @given(st.lists(AFTER_CONNECT, max_size=8), st.data())
    def test_anyChunks(self, sent: list[Packet], data: st.DataObject) -> None:
        """
        Any packets in any chunks come out as they were sent.
        """
        stream = b"".join(map(encode, sent))
        cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=10)))
        framing = Framing(FROM_CLIENT, MAX)
        got: list[Packet | Broken] = []
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            got += framing.feed(stream[start:end])
        self.assertEqual(got, sent)


class RefusalTests(SynchronousTestCase):
    """
    What is refused, and when.
    """

    def refused(self, framing: Framing, data: bytes, kind: type[Exception]) -> None:
        """
        Assert that C{data} ends the framing with an error of C{kind}, after which it ignores everything.
        """
        got = framing.feed(data)
        self.assertTrue(got)
        broken = got[-1]
        assert isinstance(broken, Broken), got
        self.assertIsInstance(broken.error, kind)
        self.assertTrue(framing.mixed)
        self.assertIsNone(framing.partial)
        self.assertEqual(framing.feed(packets.PINGREQ), [])
        self.assertIsNone(framing.partial)

    def test_atTheFirstByte(self) -> None:
        """
        A first byte that is not allowed is refused before any other comes.
        """
        self.refused(Framing(FROM_CLIENT, MAX), b"\xf0", MalformedPacket)
        self.refused(Framing(FROM_CLIENT, MAX), b"\x20", ProtocolViolation)
        self.refused(Framing(FIRST_FROM_CLIENT, MAX), b"\x32", ProtocolViolation)
        self.refused(Framing(FIRST_FROM_CLIENT, MAX), b"GET / HTTP/1.1\r\n", ProtocolViolation)
        self.refused(Framing(FIRST_FROM_CLIENT, MAX), b"\x16\x03\x01\x02\x00\x01", MalformedPacket)

    def test_fifthLengthByte(self) -> None:
        """
        A length that does not end with its fourth byte is refused at that byte, dripped or not.
        """
        self.refused(Framing(FROM_CLIENT, MAX), b"\x30\x80\x80\x80\x80", MalformedPacket)
        framing = Framing(FROM_CLIENT, MAX)
        for byte in (b"\x30", b"\xff", b"\xff", b"\xff"):
            self.assertEqual(framing.feed(byte), [])
        self.refused(framing, b"\xff", MalformedPacket)

    def test_tooLargeAtItsLength(self) -> None:
        """
        Too large a packet is refused with the last byte of its length, none of its body.
        """
        framing = Framing(FROM_CLIENT, MAX)
        for byte in (b"\x30", b"\x80", b"\x80"):
            self.assertEqual(framing.feed(byte), [])
        self.refused(framing, b"\x10", PacketTooLarge)

    def test_packetsBeforeTheBrokenOne(self) -> None:
        """
        What was whole before the broken packet is given.
        """
        framing = Framing(FROM_CLIENT, MAX)
        got = framing.feed(packets.encodePublish("t", b"", 1, 1) + packets.PINGREQ + b"\x00\x00" + packets.PINGREQ)
        self.assertEqual(got[:2], [Publish("t", b"", 1, 1, False, False), ()])
        self.assertIsInstance(got[2], Broken)
        self.assertEqual(len(got), 3)


class HoldTests(SynchronousTestCase):
    """
    After the CONNECT nothing is read until L{Framing.proceed}.
    """

    def test_onePacket(self) -> None:
        """
        What follows the CONNECT is kept, wherever it was split, be it right or wrong.
        """
        connect = packets.encodeConnect("box")
        for rest in (b"", packets.PINGREQ, b"\xff\xff", packets.encodePublish("t", b"x", 1, 1)[:-1], connect):
            for at in range(len(connect), len(connect) + len(rest) + 1):
                framing = Framing(FIRST_FROM_CLIENT, MAX)
                data = connect + rest
                self.assertEqual(len(framing.feed(data[:at])), 1)
                self.assertIsNone(framing.keep(data[at:]))
                self.assertEqual(framing.partial or b"", rest)

    def test_proceed(self) -> None:
        """
        Then it is read by the new rules, with a new limit.
        """
        framing = Framing(FIRST_FROM_CLIENT, 100)
        framing.feed(packets.encodeConnect("box") + packets.PINGREQ)
        self.assertIsNone(framing.keep(packets.encodePublish("t", bytes(50), 1, 1)))
        got = framing.proceed(FROM_CLIENT, 1000)
        self.assertEqual(got, [(), Publish("t", bytes(50), 1, 1, False, False)])
        self.assertEqual(len(framing.feed(packets.encodePublish("t", bytes(500), 1, 1))), 1)

    def test_bounded(self) -> None:
        """
        More than the limit is not kept.
        """
        framing = Framing(FIRST_FROM_CLIENT, 100)
        framing.feed(packets.encodeConnect("box"))
        self.assertIsNone(framing.keep(bytes(100)))
        broken = framing.keep(b"\0")
        assert broken is not None
        self.assertIsInstance(broken.error, PacketTooLarge)
        self.assertIsNone(framing.partial)


class CostTests(SynchronousTestCase):
    """
    Memory and time that a peer can cost.
    """

    def test_announcedPacketCostsNothing(self) -> None:
        """
        The largest packet costs no memory until it arrives, and then about what has arrived of it.
        """
        whole = packets.encodePublish("t", bytes(MAX - 9), 1, 1)
        tracemalloc.start()
        try:
            framing = Framing(FROM_CLIENT, MAX)
            framing.feed(b"\xc0")
            framing.feed(b"\x00")
            before = tracemalloc.get_traced_memory()[0]
            framing.feed(whole[:10])
            self.assertEqual(framing.partialSize, len(whole))
            self.assertLess(tracemalloc.get_traced_memory()[0] - before, 1000)
            for at in range(10, len(whole) - 1, 1460):
                framing.feed(whole[at : min(at + 1460, len(whole) - 1)])
            self.assertLess(tracemalloc.get_traced_memory()[0] - before, len(whole) * 1.25)
            tracemalloc.reset_peak()
            self.assertEqual(len(framing.feed(whole[-1:])), 1)
            self.assertLess(tracemalloc.get_traced_memory()[1] - before, len(whole) * 3.5)
            self.assertLess(tracemalloc.get_traced_memory()[0] - before, 1000)
        finally:
            tracemalloc.stop()

    def test_dripIsLinear(self) -> None:
        """
        Eight times the bytes, one a read, take nothing like 64 times as long.
        """

        def drip(size: int) -> float:
            whole = packets.encodePublish("t", bytes(size), 1, 1)
            best = 1e9
            for _ in range(3):
                framing = Framing(FROM_CLIENT, MAX)
                feed, got, begin = framing.feed, 0, time.process_time()
                for at in range(len(whole)):
                    got += len(feed(whole[at : at + 1]))
                best = min(best, time.process_time() - begin)
                self.assertEqual(got, 1)
            return best

        small = drip(25_000)
        self.assertLess(drip(200_000), small * 24 + 0.05)

    def test_nothingKeptOfWhatIsRead(self) -> None:
        """
        Between packets a framing holds nothing.
        """
        framing = Framing(FROM_CLIENT, MAX)
        for size in (0, 100, 100_000):
            framing.feed(packets.encodePublish("t", bytes(size), 1, 1))
            self.assertIsNone(framing.partial)
            self.assertEqual(framing.partialSize, 0)
