"""
Tests for L{binaryserver.md21.connection}, L{binaryserver.md21.framing}, L{binaryserver.md21.files} and
L{binaryserver.md21.channels}: bytes and times in, events and bytes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import MalformedPacket, MissingTransition, PacketTooLarge, PeerTimeout, ProtocolViolation
from binaryserver.md21 import values
from binaryserver.md21.channels import Channels
from binaryserver.md21.codec import decode, encode
from binaryserver.md21.connection import MAX_AT_ONCE, PART_ROOM, Connection
from binaryserver.md21.events import Block, BoxMessage, Broken, Event
from binaryserver.md21.files import FileReceived
from binaryserver.md21.framing import Framing, frame
from binaryserver.md21.states import ConnectionState
from binaryserver.md21.timers import FILE_TIMEOUT, Timeouts
from binaryserver.md21.values import Channel, FileStatus, HeaderStatus, MessageStatus, Reason, WantAck
from tests.md21.world import makeBlock, makeHeader

MAX_PDU = 40_000
MAX_FILE = 1000


def framed(*pdus: values.Pdu) -> bytes:
    """
    PDUs as a box sends them.
    """
    return b"".join(frame(encode(pdu)) for pdu in pdus)


class ConnectionCase(SynchronousTestCase):
    """
    Makes connections, and reads what they send.
    """

    timeouts = Timeouts(header=10, handshake=5, packet=30, activity=300, ack=60)

    def made(self) -> Connection:
        """
        One that waits for the header.
        """
        return Connection(0.0, MAX_PDU, MAX_FILE, self.timeouts)

    def opened(self, **capabilities: bool) -> Connection:
        """
        One whose header was accepted; what it sent is taken off, and its base values are acked.
        """
        connection = self.made()
        header = makeHeader(capabilities=values.Capabilities(**capabilities))
        self.assertEqual(connection.receiveData(framed(header), 0.0), [header])
        self.assertEqual(connection.accept(None, 0.0), [])
        ack, base = self.sent(connection)
        self.assertEqual(ack, values.HeaderAck(HeaderStatus.OK))
        assert isinstance(base, values.BaseValues)
        self.assertEqual(connection.receiveData(framed(values.BaseValueAck(base.revision)), 0.0), [])
        return connection

    def sent(self, connection: Connection) -> list[values.Pdu]:
        """
        What it has queued.
        """
        return [decode(pdu) for pdu in Framing(values.MAX_PDU).feed(connection.dataToSend())]

    def assertBroken(self, events: Sequence[Event], error: type[Exception], reason: Reason) -> None:
        """
        The last event, and no other, says that a rule was broken.
        """
        self.assertEqual([type(event) is Broken for event in events], [False] * (len(events) - 1) + [True], events)
        broken = events[-1]
        assert isinstance(broken, Broken)
        self.assertIsInstance(broken.error, error)
        self.assertIs(broken.reason, reason)


class FramingTests(SynchronousTestCase):
    """
    PDUs from bytes.
    """

    @given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.data())
    def test_split(self, pdus: list[bytes], data: st.DataObject) -> None:
        """
        However the bytes are split, the PDUs come whole and in their order, and nothing is held at the end.
        """
        framing = Framing(300)
        stream = b"".join(map(frame, pdus))
        found: list[bytes] = []
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            found += framing.feed(stream[:size])
            stream = stream[size:]
        self.assertEqual(found, pdus)
        self.assertEqual((framing.held, framing.partialSize, framing.error), (0, 0, None))

    def test_tooLong(self) -> None:
        """
        A length beyond the limit is refused when it is seen, not when its PDU is whole.
        """
        framing = Framing(300)
        self.assertEqual(framing.feed(frame(b"abc") + b"\x01\x2d"), [b"abc"])
        self.assertIsInstance(framing.error, PacketTooLarge)
        self.assertEqual(framing.feed(frame(b"abc")), [])

    def test_noBytes(self) -> None:
        """
        A PDU has at least a byte.
        """
        framing = Framing(300)
        self.assertEqual(framing.feed(b"\0\0"), [])
        self.assertIsInstance(framing.error, MalformedPacket)

    def test_partialSize(self) -> None:
        """
        It is known how much is to come as soon as the length is.
        """
        framing = Framing(300)
        sizes = []
        for byte in frame(b"abc")[:-1]:
            framing.feed(bytes((byte,)))
            sizes.append(framing.partialSize)
        self.assertEqual(sizes, [0, 5, 5, 5])

    def test_most(self) -> None:
        """
        What follows the one that was asked for is held, and bounded.
        """
        framing = Framing(300)
        self.assertEqual(framing.feed(frame(b"abc") + frame(b"de"), 1), [b"abc"])
        framing.isHeld = True
        self.assertEqual(framing.feed(frame(b"f")), [])
        self.assertEqual(framing.held, 7)
        framing.isHeld = False
        self.assertEqual(framing.feed(b""), [b"de", b"f"])
        framing.isHeld = True
        framing.feed(bytes(70_000))
        self.assertIsInstance(framing.error, PacketTooLarge)
        self.assertEqual(framing.held, 0)


class ChannelsTests(SynchronousTestCase):
    """
    The table.
    """

    def test_theirs(self) -> None:
        """
        What the box announces counts in both directions; a whole table replaces the one before.
        """
        channels = Channels()
        channels.replace((Channel(1, "config"), Channel(2, "diag")))
        self.assertEqual((channels.name(1), channels.name(3), channels.number("diag")), ("config", None, 2))
        channels.change((Channel(2, "media"),))
        self.assertEqual((channels.name(2), channels.number("diag"), channels.number("media")), ("media", 0, 2))
        channels.replace(())
        self.assertEqual((channels.name(1), channels.number("config"), channels.number("media")), (None, 0, 0))

    def test_atTheSameMoment(self) -> None:
        """
        Both announce one number for two names: each message is read as its sender means it.
        """
        channels = Channels()
        self.assertEqual(channels.assign("config"), Channel(1, "config"))
        self.assertEqual(channels.name(1), "config")
        channels.change((Channel(1, "diag"),))
        self.assertEqual(channels.name(1), "diag")
        self.assertEqual(channels.number("config"), 1)
        self.assertEqual(channels.number("diag"), 0)
        self.assertEqual(channels.assign("diag"), Channel(2, "diag"))
        channels.replace(())
        self.assertEqual((channels.number("config"), channels.number("diag")), (1, 2))

    def test_full(self) -> None:
        """
        Numbers end at 255.
        """
        channels = Channels()
        channels.replace([Channel(number, f"c{number}") for number in range(1, 201)])
        assigned = [channels.assign(f"d{number}") for number in range(60)]
        self.assertEqual([one.number for one in assigned if one is not None], list(range(201, 256)))
        self.assertEqual(assigned[55:], [None] * 5)


class HeaderTests(ConnectionCase):
    """
    The beginning of a link.
    """

    def test_splitAtAnyByte(self) -> None:
        """
        Header, messages and blocks come through however they are cut, with the same events.
        """
        stream = framed(
            makeHeader(), values.BaseValueAck(1), makeBlock(1, 3), values.Message(4, 0, "diag", b"x"), values.Ping(7)
        )
        for cut in range(1, len(stream)):
            connection = self.made()
            events = connection.receiveData(stream[:cut], 0.0)
            if events:
                events += connection.accept(None, 0.0)
                events += connection.receiveData(stream[cut:], 0.0)
            else:
                events += connection.receiveData(stream[cut:], 0.0)
                events += connection.accept(None, 0.0)
            self.assertEqual(
                events,
                [
                    makeHeader(),
                    Block(makeBlock(1, 3), encode(makeBlock(1, 3))),
                    BoxMessage(values.Message(4, 0, "diag", b"x"), "diag"),
                ],
            )
            self.assertEqual(self.sent(connection)[-1], values.Ping(7, True))

    def test_first(self) -> None:
        """
        Nothing else may come before the header.
        """
        for pdu in (makeBlock(1), values.Ping(1), values.Message(1, 0, "c", b""), values.HeaderAck(HeaderStatus.OK)):
            connection = self.made()
            self.assertBroken(connection.receiveData(framed(pdu), 0.0), ProtocolViolation, Reason.PROTOCOL_ERROR)
            self.assertEqual(connection.dataToSend(), b"")
            self.assertEqual(connection.receiveData(framed(makeHeader()), 0.0), [])

    def test_large(self) -> None:
        """
        A header may not be as large as other PDUs: nobody knows yet who sends it.
        """
        self.assertBroken(self.made().receiveData(b"\x20\0", 0.0), PacketTooLarge, Reason.PROTOCOL_ERROR)

    def test_tooMuchBehind(self) -> None:
        """
        What comes before the answer is kept, and bounded.
        """
        connection = self.made()
        connection.receiveData(framed(makeHeader()), 0.0)
        self.assertEqual(connection.receiveData(bytes(65_000), 0.0), [])
        self.assertEqual(connection.partialSize, 65_000)
        self.assertBroken(connection.receiveData(bytes(1000), 0.0), PacketTooLarge, Reason.PROTOCOL_ERROR)

    def test_second(self) -> None:
        """
        A second header is one too many.
        """
        connection = self.opened()
        events = connection.receiveData(framed(makeHeader()), 0.0)
        self.assertBroken(events, ProtocolViolation, Reason.PROTOCOL_ERROR)
        self.assertEqual(self.sent(connection), [values.Disconnect(Reason.PROTOCOL_ERROR)])

    def test_refused(self) -> None:
        """
        A refusal is the last that is said, and what came behind the header is never read.
        """
        connection = self.made()
        connection.receiveData(framed(makeHeader(), makeBlock(1)), 0.0)
        connection.refuse(HeaderStatus.BAD_SECRET)
        self.assertEqual(self.sent(connection), [values.HeaderAck(HeaderStatus.BAD_SECRET)])
        self.assertIs(connection.state, ConnectionState.closed)
        connection.send(values.TrackingAck())
        self.assertEqual(connection.dataToSend(), b"")

    def test_missingTransition(self) -> None:
        """
        The owner cannot answer a header that did not come, or twice.
        """
        connection = self.made()
        self.assertRaises(MissingTransition, connection.accept, None, 0.0)
        self.assertRaises(MissingTransition, connection.startTls, 0.0)
        self.assertRaises(MissingTransition, connection.secured, 0.0)
        connection = self.opened()
        self.assertRaises(MissingTransition, connection.accept, None, 0.0)
        self.assertRaises(MissingTransition, connection.refuse, HeaderStatus.SERVER_BUSY)

    def test_late(self) -> None:
        """
        The header is to be whole in time, however it drips.
        """
        connection = self.made()
        connection.receiveData(framed(makeHeader())[:-1], 9.0)
        self.assertEqual(connection.deadline(), 10.0)
        self.assertIsNone(connection.timeout(9.9))
        broken = connection.timeout(10.0)
        assert broken is not None
        self.assertBroken([broken], PeerTimeout, Reason.NETWORK_ACTIVITY_TIMEOUT)
        self.assertIsNone(connection.deadline())


class TlsTests(ConnectionCase):
    """
    TLS on the box's request.
    """

    def test_newHeader(self) -> None:
        """
        The answer goes out in the clear, then a new header comes inside, and its link is secure.
        """
        connection = self.made()
        connection.receiveData(framed(makeHeader(tls=True)), 0.0)
        self.assertIsNone(connection.startTls(1.0))
        self.assertEqual(self.sent(connection), [values.HeaderAck(HeaderStatus.TLS_ACCEPTED)])
        self.assertFalse(connection.isSecure)
        connection.secured(2.0)
        self.assertTrue(connection.isSecure)
        self.assertEqual(connection.deadline(), 12.0)
        self.assertBroken(connection.receiveData(framed(makeBlock(1)), 2.0), ProtocolViolation, Reason.PROTOCOL_ERROR)

    def test_injected(self) -> None:
        """
        A byte behind the header that asked for TLS, whole PDU or not, breaks the link, and TLS is not accepted
        (CVE-2011-0411).
        """
        for injected in (b"\0", framed(makeHeader()), framed(makeBlock(1))):
            for together in (True, False):
                connection = self.made()
                data = framed(makeHeader(tls=True))
                if together:
                    connection.receiveData(data + injected, 0.0)
                else:
                    connection.receiveData(data, 0.0)
                    connection.receiveData(injected, 0.0)
                broken = connection.startTls(0.0)
                assert broken is not None
                self.assertBroken([broken], ProtocolViolation, Reason.PROTOCOL_ERROR)
                self.assertEqual(connection.dataToSend(), b"")
                self.assertIs(connection.state, ConnectionState.closed)

    def test_plaintextAfterwards(self) -> None:
        """
        Nothing is taken between the answer and the end of the handshake.
        """
        connection = self.made()
        connection.receiveData(framed(makeHeader(tls=True)), 0.0)
        connection.startTls(0.0)
        events = connection.receiveData(framed(makeHeader()), 0.0)
        self.assertBroken(events, ProtocolViolation, Reason.PROTOCOL_ERROR)

    def test_slowHandshake(self) -> None:
        """
        A handshake has its own time.
        """
        connection = self.made()
        connection.receiveData(framed(makeHeader(tls=True)), 3.0)
        connection.startTls(3.0)
        self.assertEqual(connection.deadline(), 8.0)
        self.assertIsNotNone(connection.timeout(8.0))


class OpenTests(ConnectionCase):
    """
    An open link.
    """

    def test_ping(self) -> None:
        """
        A ping is answered with its number; an answer is not.
        """
        connection = self.opened()
        self.assertEqual(connection.receiveData(framed(values.Ping(9), values.Ping(8, True)), 0.0), [])
        self.assertEqual(self.sent(connection), [values.Ping(9, True)])

    def test_flood(self) -> None:
        """
        As many pings at once as no box has reason for end the link; of what windows bound there may be any number.
        """
        connection = self.opened()
        events = connection.receiveData(framed(*[values.Ping(1)] * (MAX_AT_ONCE - 1), *[makeBlock(1)] * 300), 0.0)
        self.assertEqual(len(events), 300)
        self.assertEqual(len(self.sent(connection)), MAX_AT_ONCE - 1)
        events = connection.receiveData(framed(*[values.Ping(1)] * MAX_AT_ONCE), 0.0)
        self.assertBroken(events, ProtocolViolation, Reason.PROTOCOL_ERROR)

    def test_baseValues(self) -> None:
        """
        They are acked with their revision, and their table counts.
        """
        connection = self.opened(dynamicChannels=True)
        base = values.BaseValues(5, (Channel(3, "diag"),))
        events = connection.receiveData(framed(base, values.Message(1, 3, None, b"x")), 0.0)
        self.assertEqual(events, [BoxMessage(values.Message(1, 3, None, b"x"), "diag")])
        self.assertEqual(self.sent(connection), [values.BaseValueAck(5)])
        connection.receiveData(framed(values.ReconfigureMsg((Channel(4, "media"),))), 0.0)
        events = connection.receiveData(framed(values.Message(2, 4, None, b"y")), 0.0)
        self.assertEqual(events, [BoxMessage(values.Message(2, 4, None, b"y"), "media")])

    def test_unknownChannel(self) -> None:
        """
        A number that nobody announced: of a box with a dynamic table, and of one without.
        """
        for isDynamic, reason in ((True, Reason.UNKNOWN_DYNAMIC_CHANNEL), (False, Reason.UNKNOWN_CHANNEL)):
            connection = self.opened(dynamicChannels=isDynamic)
            events = connection.receiveData(framed(makeBlock(1), values.Message(1, 9, None, b"x")), 0.0)
            self.assertEqual(len(events), 2)
            self.assertBroken(events, ProtocolViolation, reason)
            self.assertEqual(self.sent(connection), [values.Disconnect(reason)])

    def test_serversOwn(self) -> None:
        """
        What only a server says breaks the link, and so does what comes in datagrams.
        """
        for pdu in (
            values.TrackingAck(),
            values.HeaderAck(HeaderStatus.OK),
            values.ReconfigureTrk(WantAck.ALL_30),
            values.FileAck(1, 0, FileStatus.OK),
            values.Transport(bytes(32), 0),
        ):
            connection = self.opened()
            events = connection.receiveData(framed(pdu), 0.0)
            self.assertBroken(events, ProtocolViolation, Reason.PROTOCOL_ERROR)

    def test_lengthsThatLie(self) -> None:
        """
        A PDU cut short, one with something behind it, and a length beyond the limit.
        """
        pdu = encode(makeBlock(1, 2))
        for data, error in (
            (frame(pdu[:-1]), MalformedPacket),
            (frame(pdu + b"\0"), MalformedPacket),
            (frame(b"\xff" * 9), MalformedPacket),
            (b"\xff\xff" + pdu, PacketTooLarge),
            (b"\0\0" + pdu, MalformedPacket),
        ):
            connection = self.opened()
            events = connection.receiveData(framed(makeBlock(7)) + data, 0.0)
            self.assertEqual(len(events), 2)
            self.assertBroken(events, error, Reason.PROTOCOL_ERROR)
            self.assertEqual(self.sent(connection), [values.Disconnect(Reason.PROTOCOL_ERROR)])

    def test_disconnect(self) -> None:
        """
        Nothing after it is read, and nothing is sent.
        """
        connection = self.opened()
        disconnect = values.Disconnect(Reason.IDLE_OUT)
        self.assertEqual(connection.receiveData(framed(disconnect, makeBlock(1)), 0.0), [disconnect])
        connection.disconnect(Reason.SERVER_SHUTDOWN)
        connection.send(values.TrackingAck())
        self.assertEqual(connection.dataToSend(), b"")
        connection.close()

    def test_disconnected(self) -> None:
        """
        The owner's own: the last that is sent.
        """
        connection = self.opened()
        connection.disconnect(Reason.SERVER_SHUTDOWN)
        connection.send(values.TrackingAck())
        self.assertEqual(self.sent(connection), [values.Disconnect(Reason.SERVER_SHUTDOWN)])
        self.assertEqual(connection.receiveData(framed(makeBlock(1)), 0.0), [])

    def test_datagram(self) -> None:
        """
        What came by datagram is taken as if it had come by the stream; nothing is once the link is closed.
        """
        connection = self.opened()
        block, message = makeBlock(1), values.Message(3, 0, "diag", b"")
        self.assertEqual(connection.receiveDatagram(block, encode(block), 1.0), [Block(block, encode(block), True)])
        self.assertEqual(connection.receiveDatagram(message, encode(message), 1.0), [BoxMessage(message, "diag")])
        self.assertEqual(connection.receiveDatagram(values.Ping(3), b"", 200.0), [])
        self.assertEqual(self.sent(connection), [values.Ping(3, True)])
        self.assertEqual(connection.deadline(), 350.0)
        connection.close()
        self.assertEqual(connection.receiveDatagram(block, encode(block), 1.0), [])


class TimeTests(ConnectionCase):
    """
    What time brings.
    """

    def assertTimesOut(self, connection: Connection, at: float, reason: Reason) -> None:
        """
        It does, then and not before, and tells the box why.
        """
        self.assertIsNone(connection.timeout(at - 0.01))
        connection.dataToSend()
        self.assertEqual(connection.deadline(), at)
        broken = connection.timeout(at)
        assert broken is not None
        self.assertBroken([broken], PeerTimeout, reason)
        self.assertEqual(self.sent(connection), [values.Disconnect(reason)])

    def test_silence(self) -> None:
        """
        A silent box is pinged once, and then late; any PDU renews the time.
        """
        connection = self.opened()
        self.assertEqual(connection.deadline(), 150.0)
        self.assertIsNone(connection.timeout(150.0))
        (ping,) = self.sent(connection)
        assert isinstance(ping, values.Ping)
        self.assertFalse(ping.reply)
        self.assertEqual(connection.deadline(), 300.0)
        connection.receiveData(framed(values.Ping(ping.number, True)), 160.0)
        self.assertEqual(connection.deadline(), 310.0)
        self.assertIsNone(connection.timeout(310.0))
        self.assertTimesOut(connection, 460.0, Reason.NETWORK_ACTIVITY_TIMEOUT)

    def test_pingsByItself(self) -> None:
        """
        Of a box that says how often it pings the silence is measured by that, and it is not pinged.
        """
        connection = self.opened()
        connection.receiveData(framed(values.BaseValues(1, (), pingInterval=40)), 10.0)
        self.sent(connection)
        self.assertTimesOut(connection, 70.0, Reason.NETWORK_ACTIVITY_TIMEOUT)

    def test_partOfAPdu(self) -> None:
        """
        A PDU that was started is to be ended in time, however it drips.
        """
        connection = self.opened()
        data = framed(makeBlock(1, 5))
        connection.receiveData(data[:1], 20.0)
        connection.receiveData(data[1:9], 40.0)
        self.assertTimesOut(connection, 50.0, Reason.NETWORK_ACTIVITY_TIMEOUT)

    def test_message(self) -> None:
        """
        Messages are to be acked in time, each for itself; by whatever ack.
        """
        connection = self.opened()
        connection.awaitAck(1, 5.0)
        connection.awaitAck(2, 8.0)
        ack = values.MessageAck(MessageStatus.NACK, 1)
        self.assertEqual(connection.receiveData(framed(ack), 20.0), [ack])
        self.assertTimesOut(connection, 68.0, Reason.MESSAGE_ACK_TIMEOUT)

    def test_baseValues(self) -> None:
        """
        So are the base values, with their revision.
        """
        connection = self.made()
        connection.receiveData(framed(makeHeader()), 0.0)
        connection.accept(None, 2.0)
        connection.receiveData(framed(values.BaseValueAck(77)), 40.0)
        self.assertTimesOut(connection, 62.0, Reason.BASEVALUE_ACK_TIMEOUT)

    def test_suspended(self) -> None:
        """
        While nothing is read no time passes for the box, and afterwards each timer has as much left as before.
        """
        connection = self.opened()
        connection.awaitAck(1, 0.0)
        connection.receiveData(framed(values.Ping(1, True)), 10.0)
        connection.suspend()
        self.assertIsNone(connection.deadline())
        self.assertIsNone(connection.timeout(1000.0))
        connection.suspend()
        connection.resume(1010.0)
        self.assertEqual(connection.deadline(), 1060.0)
        connection.resume(1050.0)
        self.assertTimesOut(connection, 1060.0, Reason.MESSAGE_ACK_TIMEOUT)


class FileTests(ConnectionCase):
    """
    Files of boxes.
    """

    def start(self, data: bytes, fileId: int = 1, name: str = "log.txt", size: int | None = None) -> values.FileStart:
        """
        How a file is announced.
        """
        return values.FileStart(fileId, name, len(data) if size is None else size, sha256(data).digest())

    def answers(self, connection: Connection, *pdus: values.Pdu) -> list[values.Pdu]:
        """
        What is said to these, which give no event.
        """
        self.assertEqual(connection.receiveData(framed(*pdus), 0.0), [])
        return self.sent(connection)

    def test_whole(self) -> None:
        """
        Parts are acked one by one; the last one gives the file, whose ack is the owner's.
        """
        connection = self.opened(files=True)
        data = bytes(range(256)) * 3
        self.assertEqual(self.answers(connection, self.start(data)), [values.FileAck(1, 0, FileStatus.OK)])
        self.assertEqual(connection.partialSize, len(data) + PART_ROOM)
        part = values.FilePart(1, 0, data[:500])
        self.assertEqual(self.answers(connection, part), [values.FileAck(1, 500, FileStatus.OK)])
        events = connection.receiveData(framed(values.FilePart(1, 500, data[500:])), 0.0)
        self.assertEqual(events, [FileReceived(1, "log.txt", data)])
        self.assertEqual((self.sent(connection), connection.partialSize), ([], 0))

    def test_empty(self) -> None:
        """
        A file of no bytes is whole at its start.
        """
        connection = self.opened(files=True)
        events = connection.receiveData(framed(self.start(b"")), 0.0)
        self.assertEqual(events, [FileReceived(1, "log.txt", b"")])

    def test_refused(self) -> None:
        """
        Too large, a name that is too long, a second one at a time, a wrong offset, more than was announced, a wrong
        hash, a part of none: typed answers, and the memory is free again.
        """
        part = values.FilePart(1, 0, b"abc")
        for pdus, status in (
            ((self.start(b"", size=MAX_FILE + 1),), FileStatus.TOO_LARGE),
            ((self.start(b"abc", name="n" * 129),), FileStatus.REFUSED),
            ((self.start(b"abcdef"), values.FilePart(1, 1, b"b")), FileStatus.BAD_OFFSET),
            ((self.start(b"ab"), part), FileStatus.TOO_LARGE),
            ((self.start(b"abd"), part), FileStatus.BAD_HASH),
            ((part,), FileStatus.UNKNOWN_FILE),
        ):
            connection = self.opened(files=True)
            ack = self.answers(connection, *pdus)[-1]
            assert isinstance(ack, values.FileAck)
            self.assertIs(ack.status, status)
            self.assertEqual(connection.partialSize, 0)
        connection = self.opened(files=True)
        acks = self.answers(connection, self.start(b"abc"), self.start(b"xyz", 2))
        self.assertEqual(acks[1], values.FileAck(2, 0, FileStatus.REFUSED))
        self.assertEqual(connection.receiveData(framed(part), 0.0), [FileReceived(1, "log.txt", b"abc")])

    def test_endless(self) -> None:
        """
        A transfer that creeps is given up in the end; the link goes on.
        """
        connection = self.opened(files=True)
        now = 0.0
        connection.receiveData(framed(self.start(bytes(900))), now)
        offset = 0
        while now < FILE_TIMEOUT:
            connection.dataToSend()
            now += 100
            connection.receiveData(framed(values.FilePart(1, offset, b"\0")), now)
            offset += 1
            self.assertIsNone(connection.timeout(now))
        self.assertEqual(self.sent(connection)[-1], values.FileAck(1, offset, FileStatus.ABORTED))
        self.assertEqual(connection.partialSize, 0)
        self.assertIs(connection.state, ConnectionState.open)


class FuzzTests(ConnectionCase):
    """
    What a broken or hostile peer sends.
    """

    @given(st.lists(st.binary(min_size=0, max_size=80), max_size=6), st.booleans())
    @settings(max_examples=300)
    def test_anything(self, pieces: list[bytes], isFramed: bool) -> None:
        """
        Whatever comes, nothing is raised, what is broken is told last, and afterwards nothing is taken.
        """
        connection = self.opened(dynamicChannels=True, files=True)
        events: list[Event] = []
        for piece in pieces:
            events += connection.receiveData(frame(piece) if isFramed else piece, 1.0)
        ends = [type(event) in (Broken, values.Disconnect) for event in events]
        self.assertEqual(sum(ends[:-1]), 0)
        self.assertEqual(connection.state is ConnectionState.closed, bool(ends and ends[-1]))
        if connection.state is ConnectionState.closed:
            self.assertEqual(connection.receiveData(framed(makeBlock(1)), 2.0), [])
            self.assertEqual(connection.partialSize, 0)

    @given(st.data())
    @settings(max_examples=200)
    def test_damaged(self, data: st.DataObject) -> None:
        """
        So it is with good PDUs that a bit was flipped in.
        """
        connection = self.opened(dynamicChannels=True, files=True)
        stream = bytearray(
            framed(
                makeBlock(1, 3),
                values.Message(4, 0, "diag", b"x"),
                values.FileStart(1, "a", 3, bytes(32)),
                values.BaseValues(1, (Channel(1, "c"),)),
                values.MessageAck(MessageStatus.ACK, 5),
            )
        )
        position = data.draw(st.integers(0, len(stream) * 8 - 1))
        stream[position // 8] ^= 1 << position % 8
        events = connection.receiveData(bytes(stream), 1.0)
        self.assertLessEqual(len(events), 5)
        self.assertTrue(all(type(event) is not Broken for event in events[:-1]))
