"""
Tests for L{binaryserver.mqtt.connection} and L{binaryserver.mqtt.qos2}.
"""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import (
    MalformedPacket,
    MissingTransition,
    PacketTooLarge,
    PeerError,
    PeerTimeout,
    ProtocolViolation,
)
from binaryserver.mqtt import packets
from binaryserver.mqtt.connection import MAX_CONNECT, Connection, ConnectionState
from binaryserver.mqtt.events import (
    Broken,
    Connect,
    Disconnect,
    Event,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
    Will,
)
from binaryserver.mqtt.framing import Framing
from binaryserver.mqtt.packets import Connack, Packet, Pingresp, Pubcomp, Pubrec, Suback, Unsuback
from binaryserver.mqtt.parsers import FROM_SERVER
from binaryserver.mqtt.qos2 import MAX_UNRELEASED
from tests.mqtt.samples import held, opened

CONNECT = packets.encodeConnect("box")


def sent(connection: Connection) -> list[Packet | Broken]:
    """
    What the connection has queued, as a client reads it.
    """
    return Framing(FROM_SERVER, 1 << 20).feed(connection.dataToSend())


class BrokenMixin(SynchronousTestCase):
    """
    Assertions about the end of a connection.
    """

    def assertBroken(
        self, connection: Connection, events: list[Event], kind: type[PeerError], clause: str = ""
    ) -> None:
        """
        The last event is a L{Broken} with an error of just that kind and clause, and the connection is closed.
        """
        self.assertTrue(events)
        broken = events[-1]
        assert isinstance(broken, Broken), events
        self.assertIs(type(broken.error), kind, broken.error)
        self.assertEqual(broken.error.clause, clause)
        self.assertIs(connection.state, ConnectionState.closed)
        self.assertEqual(connection.receiveData(packets.PINGREQ, 0.0), [])
        self.assertIsNone(connection.deadline())
        self.assertIsNone(connection.timeout(1e9))


class ConnectTests(BrokenMixin):
    """
    From the first byte to the CONNACK.
    """

    def test_accepted(self) -> None:
        """
        The first packet to the client is the CONNACK [MQTT-3.2.0-1], with code 0 once accepted [MQTT-3.1.4-4].
        """
        connection = Connection(0.0)
        self.assertIs(connection.state, ConnectionState.awaitingConnect)
        will = Will("w", b"PPP_LOST", 1, False)
        events = connection.receiveData(packets.encodeConnect("box", False, 30, "acme", b"secret", will), 1.0)
        self.assertEqual(events, [Connect("box", False, 30, "acme", b"secret", will)])
        self.assertIs(connection.state, ConnectionState.awaitingDecision)
        self.assertEqual(connection.dataToSend(), b"")
        self.assertEqual(connection.accept(True, 30), [])
        self.assertIs(connection.state, ConnectionState.open)
        self.assertEqual(sent(connection), [Connack(True, 0)])
        self.assertEqual(connection.dataToSend(), b"")

    def test_refused(self) -> None:
        """
        A refusal has its return code and no session present [MQTT-3.2.2-4]; the link is to be closed [MQTT-3.2.2-5],
        and what the client sent behind its CONNECT is not read [MQTT-3.1.4-5].
        """
        for code in range(1, 6):
            connection = Connection(0.0)
            connection.receiveData(CONNECT + packets.encodePublish("t", b"x", 1, 1), 0.0)
            connection.refuse(code)
            self.assertIs(connection.state, ConnectionState.closed)
            self.assertEqual(sent(connection), [Connack(False, code)])
            self.assertEqual(connection.receiveData(packets.encodePublish("t", b"x", 1, 2), 0.0), [])
            self.assertEqual(held(connection), 0)

    def test_anyOtherFirstPacket(self) -> None:
        """
        Nothing but a CONNECT may come first [MQTT-3.1.0-1]; nothing is answered.
        """
        for data in (packets.PINGREQ, packets.DISCONNECT, packets.encodePublish("t", b"", 1, 1), b"\x82", b"\x20"):
            connection = Connection(0.0)
            self.assertBroken(connection, connection.receiveData(data, 0.0), ProtocolViolation, "MQTT-3.1.0-1")
            self.assertEqual(connection.dataToSend(), b"")

    def test_malformed(self) -> None:
        """
        A CONNECT that is not as section 3.1 has it closes the link without a CONNACK [MQTT-3.1.4-1], [MQTT-3.2.2-6].
        """
        for text, clause in (
            ("100f 0006 4d5149736470 03 02 003c 0001 62", "MQTT-3.1.2-1"),
            ("100d 0004 4d515454 04 03 003c 0001 62", "MQTT-3.1.2-3"),
            ("100d 0004 4d515454 04 42 003c 0001 62", "MQTT-3.1.2-22"),
            ("100d 0004 4d515454 04 02 003c 0001 ff", "MQTT-1.5.3-1"),
            ("100e 0004 4d515454 04 02 003c 0001 62 00", "MQTT-3.1.4-1"),
        ):
            connection = Connection(0.0)
            self.assertBroken(connection, connection.receiveData(bytes.fromhex(text), 0.0), MalformedPacket, clause)
            self.assertEqual(connection.dataToSend(), b"")

    def test_protocolLevel(self) -> None:
        """
        An unknown protocol level is answered with return code 1, then the link is closed [MQTT-3.1.2-2].
        """
        for level in (3, 5, 0x84):
            connection = Connection(0.0)
            events = connection.receiveData(CONNECT.replace(b"MQTT\x04", b"MQTT" + bytes((level,))), 0.0)
            self.assertEqual(len(events), 1)
            self.assertEqual(sent(connection), [Connack(False, 1)])
            self.assertIs(connection.state, ConnectionState.closed)

    def test_emptyClientIdOfAKeptSession(self) -> None:
        """
        It is answered with return code 2, then the link is closed [MQTT-3.1.3-8]; with a clean session it is for the
        owner to say [MQTT-3.1.3-6].
        """
        connection = Connection(0.0)
        (event,) = connection.receiveData(bytes.fromhex("100c 0004 4d515454 04 00 003c 0000"), 0.0)
        assert isinstance(event, Broken)
        self.assertEqual(event.error.clause, "MQTT-3.1.3-8")
        self.assertEqual(sent(connection), [Connack(False, 2)])
        connection = Connection(0.0)
        (event,) = connection.receiveData(bytes.fromhex("100c 0004 4d515454 04 02 003c 0000"), 0.0)
        assert isinstance(event, Connect)
        self.assertEqual(event.clientId, "")

    def test_readAheadIsKept(self) -> None:
        """
        A client may go on sending before its CONNACK; that is read once it is accepted, in its order, in whatever
        chunks it came.
        """
        rest = packets.encodeSubscribe(1, [("d", 1)]) + packets.PINGREQ + packets.encodePublish("t", b"x", 1, 2)
        for at in range(len(rest) + 1):
            connection = Connection(0.0)
            self.assertEqual(len(connection.receiveData(CONNECT + rest[:at], 0.0)), 1)
            self.assertEqual(connection.receiveData(rest[at:], 1.0), [])
            self.assertEqual(connection.dataToSend(), b"")
            events = connection.accept(False, 0)
            self.assertEqual(events, [Subscribe(1, (("d", 1),)), Publish("t", b"x", 1, 2, False, False)])
            self.assertEqual(sent(connection), [Connack(False, 0), Pingresp()])

    def test_readAheadIsBounded(self) -> None:
        """
        No more than one largest packet is kept.
        """
        connection = Connection(0.0, maxPacket=1000)
        connection.receiveData(CONNECT, 0.0)
        self.assertEqual(connection.receiveData(bytes(1000), 0.0), [])
        self.assertBroken(connection, connection.receiveData(b"\0", 0.0), PacketTooLarge)
        self.assertEqual(held(connection), 0)

    def test_largestConnect(self) -> None:
        """
        Who is not known yet may not fill as much memory as a box.
        """
        size = MAX_CONNECT - len(packets.encodeConnect("", username="", password=bytes(1000))) + 999
        whole = packets.encodeConnect("", username="", password=bytes(size + 1))
        self.assertEqual(len(whole), MAX_CONNECT)
        self.assertIsInstance(Connection(0.0).receiveData(whole, 0.0)[0], Connect)
        connection = Connection(0.0)
        whole = packets.encodeConnect("", username="", password=bytes(size + 2))
        self.assertBroken(connection, connection.receiveData(whole[:4], 0.0), PacketTooLarge)
        # After it the limit is that of all packets.
        connection = opened()
        self.assertEqual(len(connection.receiveData(packets.encodePublish("t", bytes(200_000), 1, 1), 0.0)), 1)

    def test_secondConnect(self) -> None:
        """
        A second CONNECT closes the link [MQTT-3.1.0-2], be it behind the first one or later.
        """
        connection = opened()
        self.assertBroken(connection, connection.receiveData(CONNECT, 0.0), ProtocolViolation, "MQTT-3.1.0-2")
        connection = Connection(0.0)
        self.assertEqual(len(connection.receiveData(CONNECT + CONNECT, 0.0)), 1)
        self.assertBroken(connection, connection.accept(False, 0), ProtocolViolation, "MQTT-3.1.0-2")

    def test_missingTransitions(self) -> None:
        """
        What the state does not allow is the owner's mistake, and is said.
        """
        connection = Connection(0.0)
        self.assertRaises(MissingTransition, connection.accept, False, 0)
        self.assertRaises(MissingTransition, connection.refuse, 5)
        self.assertIs(connection.state, ConnectionState.awaitingConnect)
        connection = opened()
        self.assertRaises(MissingTransition, connection.accept, False, 0)
        self.assertRaises(MissingTransition, connection.pubrec, 1)
        connection.close()
        self.assertRaises(MissingTransition, connection.refuse, 5)
        connection.close()
        self.assertIs(connection.state, ConnectionState.closed)


class OpenTests(BrokenMixin):
    """
    An accepted connection.
    """

    def test_events(self) -> None:
        """
        Each packet that the owner decides about is an event, in their order.
        """
        connection = opened()
        stream = b"".join(
            (
                packets.encodePublish("t", b"a", 1, 1),
                packets.encodePublish("t", b"b"),
                packets.encodeSubscribe(2, [("d", 2), ("#", 0)]),
                packets.encodeUnsubscribe(3, ["d"]),
                packets.encodePuback(4),
                packets.encodePublish("t", b"c", 1, 5, True, True),
                packets.DISCONNECT,
            )
        )
        expected: list[Event] = [
            Publish("t", b"a", 1, 1, False, False),
            Publish("t", b"b", 0, 0, False, False),
            Subscribe(2, (("d", 2), ("#", 0))),
            Unsubscribe(3, ("d",)),
            Puback(4),
            Publish("t", b"c", 1, 5, True, True),
            Disconnect(),
        ]
        self.assertEqual(connection.receiveData(stream, 0.0), expected)

    def test_ping(self) -> None:
        """
        Each PINGREQ gets a PINGRESP and is no event [MQTT-3.12.4-1].
        """
        connection = opened()
        self.assertEqual(connection.receiveData(packets.PINGREQ * 3, 0.0), [])
        self.assertEqual(sent(connection), [Pingresp()] * 3)

    def test_disconnect(self) -> None:
        """
        After a DISCONNECT nothing is read [MQTT-3.14.4-2] and nothing more is sent.
        """
        connection = opened()
        events = connection.receiveData(packets.DISCONNECT + packets.PINGREQ + b"\xff", 0.0)
        self.assertEqual(events, [Disconnect()])
        self.assertIs(connection.state, ConnectionState.closed)
        connection.puback([1])
        self.assertEqual(connection.dataToSend(), b"")

    def test_answers(self) -> None:
        """
        Answers carry the ids of what they answer, in the order of their making: [MQTT-2.3.1-6], [MQTT-2.3.1-7],
        [MQTT-3.8.4-2], [MQTT-3.10.4-4], [MQTT-4.6.0-2]; SUBACK has its codes in the filters' order [MQTT-3.9.3-1].
        """
        connection = opened()
        connection.puback([3, 1, 2])
        connection.suback(7, [1, 0x80, 0])
        connection.unsuback(8)
        connection.publish("i", b"notice")
        connection.publish("d", b"message", 1, 9, dup=True)
        self.assertEqual(
            sent(connection),
            [
                Puback(3),
                Puback(1),
                Puback(2),
                Suback(7, (1, 128, 0)),
                Unsuback(8),
                Publish("i", b"notice", 0, 0, False, False),
                Publish("d", b"message", 1, 9, True, False),
            ],
        )

    def test_closed(self) -> None:
        """
        Once closed it sends nothing and reads nothing, without complaint: commits may come back later.
        """
        connection = opened()
        connection.puback([1])
        connection.close()
        sends: tuple[Callable[[], None], ...] = (
            lambda: connection.puback([1]),
            lambda: connection.suback(1, [0]),
            lambda: connection.unsuback(1),
            lambda: connection.publish("d", b""),
        )
        for send in sends:
            send()
        self.assertEqual(connection.dataToSend(), b"")
        self.assertEqual(connection.receiveData(b"\xff", 0.0), [])

    def test_brokenComesLast(self) -> None:
        """
        What came before a broken packet is given, what came after it is not; answers queued until then go out
        [MQTT-4.8.0-1].
        """
        connection = opened()
        good = packets.encodePublish("t", b"", 1, 1) + packets.PINGREQ
        events = connection.receiveData(good + b"\x36\x05\x00\x01t\x00\x01" + good, 0.0)
        self.assertEqual(events[0], Publish("t", b"", 1, 1, False, False))
        self.assertEqual(len(events), 2)
        self.assertBroken(connection, events, MalformedPacket, "MQTT-3.3.1-4")
        self.assertEqual(sent(connection), [Pingresp()])

    def test_whatOnlyAServersPublishAsksFor(self) -> None:
        """
        PUBREC and PUBCOMP answer QoS 2 PUBLISHes, and none are sent to a client.
        """
        for data in (packets.encodePubrec(1), packets.encodePubcomp(1)):
            connection = opened()
            self.assertBroken(connection, connection.receiveData(data, 0.0), ProtocolViolation, "MQTT-4.8.0-1")

    def test_errorsCarryNoBytes(self) -> None:
        """
        An error has neither traceback nor cause, which could show a log the peer's bytes.
        """
        for data in (b"\x32\x05\x00\x01\xff\x00\x01", b"\x32\x05\x00\x01#\x00\x01", b"\x30\xff\xff\xff\x7f"):
            (event,) = opened().receiveData(data, 0.0)
            assert isinstance(event, Broken)
            self.assertIsNone(event.error.__traceback__)
            self.assertIsNone(event.error.__context__)

    def test_idleIsSmall(self) -> None:
        """
        An idle connection takes less than 400 bytes.
        """

        def idle(number: int) -> Connection:
            connection = opened(number + 0.5, 60)
            connection.receiveData(packets.encodePublish("t", b"x", 1, 1), number + 1.25)
            connection.puback([1])
            connection.dataToSend()
            return connection

        idle(0)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            connections = [idle(number) for number in range(500)]
            taken = (tracemalloc.get_traced_memory()[0] - before) / len(connections)
        finally:
            tracemalloc.stop()
        self.assertLess(taken, 400)


class Qos2Tests(BrokenMixin):
    """
    QoS 2 from the client [MQTT-4.3.3-2].
    """

    def test_whole(self) -> None:
        """
        PUBLISH, PUBREC after the commit, PUBREL, PUBCOMP, each with the same id [MQTT-2.3.1-6].
        """
        connection = opened()
        (event,) = connection.receiveData(packets.encodePublish("t", b"x", 2, 7), 0.0)
        self.assertEqual(event, Publish("t", b"x", 2, 7, False, False))
        self.assertEqual((sent(connection), set(connection.received)), ([], set()))
        connection.pubrec(7)
        self.assertEqual((sent(connection), set(connection.received)), ([Pubrec(7)], {7}))
        self.assertEqual(connection.receiveData(packets.encodePubrel(7), 0.0), [Pubrel(7)])
        self.assertEqual((sent(connection), set(connection.received)), ([Pubcomp(7)], set()))

    def test_repeatedWhileCommitting(self) -> None:
        """
        A copy that comes before the commit gives no event and no PUBREC of its own.
        """
        connection = opened()
        connection.receiveData(packets.encodePublish("t", b"x", 2, 7), 0.0)
        for dup in (True, False):
            self.assertEqual(connection.receiveData(packets.encodePublish("t", b"x", 2, 7, dup), 0.0), [])
        connection.pubrec(7)
        self.assertEqual(sent(connection), [Pubrec(7)])

    def test_repeatedAfterTheCommit(self) -> None:
        """
        A copy that comes after it gets another PUBREC and is not given again; after the PUBREL the id is free.
        """
        connection = opened()
        connection.receiveData(packets.encodePublish("t", b"x", 2, 7), 0.0)
        connection.pubrec(7)
        for dup in (True, False):
            self.assertEqual(connection.receiveData(packets.encodePublish("t", b"x", 2, 7, dup), 0.0), [])
        self.assertEqual(sent(connection), [Pubrec(7)] * 3)
        connection.receiveData(packets.encodePubrel(7), 0.0)
        self.assertEqual(len(connection.receiveData(packets.encodePublish("t", b"y", 2, 7), 0.0)), 1)

    def test_carriedOver(self) -> None:
        """
        Ids of an earlier link of the session are known [MQTT-4.1.0-1]: a PUBLISH sent again gets its PUBREC.
        """
        connection = Connection(0.0)
        connection.receiveData(packets.encodeConnect("box", False), 0.0)
        connection.accept(True, 0, received=(7, 8))
        self.assertEqual(set(connection.received), {7, 8})
        self.assertEqual(connection.receiveData(packets.encodePublish("t", b"x", 2, 7, True), 0.0), [])
        self.assertEqual(connection.receiveData(packets.encodePubrel(8), 0.0), [Pubrel(8)])
        self.assertEqual(sent(connection), [Connack(True, 0), Pubrec(7), Pubcomp(8)])
        self.assertEqual(set(connection.received), {7})

    def test_staleId(self) -> None:
        """
        On a new link a PUBLISH without DUP is a new one [MQTT-3.3.1-1], even where its id was carried over: the
        release may have been lost with a gateway, the message may not be. Once only: from then on the id is this
        link's.
        """
        connection = Connection(0.0)
        connection.receiveData(packets.encodeConnect("box", False), 0.0)
        connection.accept(True, 0, received=(7,))
        (event,) = connection.receiveData(packets.encodePublish("t", b"new", 2, 7), 0.0)
        self.assertEqual(event, Publish("t", b"new", 2, 7, False, False))
        self.assertEqual(set(connection.received), set())
        connection.pubrec(7)
        self.assertEqual(connection.receiveData(packets.encodePublish("t", b"new", 2, 7), 0.0), [])

    def test_unknownPubrel(self) -> None:
        """
        A PUBREL of an id that is not known gets its PUBCOMP: the first one may have been lost.
        """
        connection = opened()
        self.assertEqual(connection.receiveData(packets.encodePubrel(7), 0.0), [Pubrel(7)])
        self.assertEqual(sent(connection), [Pubcomp(7)])

    def test_pubrelBeforePubrec(self) -> None:
        """
        A PUBREL before its PUBREC breaks the rule of the sender [MQTT-4.3.3-1].
        """
        connection = opened()
        connection.receiveData(packets.encodePublish("t", b"x", 2, 7), 0.0)
        events = connection.receiveData(packets.encodePubrel(7), 0.0)
        self.assertBroken(connection, events, ProtocolViolation, "MQTT-4.3.3-1")

    def test_commitAfterTheEnd(self) -> None:
        """
        A commit that comes back when the link has gone is still noted, for the session.
        """
        connection = opened()
        connection.receiveData(packets.encodePublish("t", b"x", 2, 7), 0.0)
        connection.close()
        connection.pubrec(7)
        self.assertEqual((connection.dataToSend(), set(connection.received)), (b"", {7}))

    def test_bounded(self) -> None:
        """
        A client that never releases is cut off; at the limit copies are still answered.
        """
        connection = opened()
        for packetId in range(1, MAX_UNRELEASED + 1):
            self.assertEqual(len(connection.receiveData(packets.encodePublish("t", b"", 2, packetId), 0.0)), 1)
            if packetId % 2:
                connection.pubrec(packetId)
        self.assertEqual(connection.receiveData(packets.encodePublish("t", b"", 2, 1, True), 0.0), [])
        self.assertIs(connection.state, ConnectionState.open)
        events = connection.receiveData(packets.encodePublish("t", b"", 2, MAX_UNRELEASED + 1), 0.0)
        self.assertEqual(len(events), 1)
        self.assertBroken(connection, events, ProtocolViolation)


class TimerTests(BrokenMixin):
    """
    What the client must do in time.
    """

    def late(self, connection: Connection, at: float, clause: str = "") -> None:
        """
        Assert that C{at} is the deadline, and that the connection breaks then and not before.
        """
        self.assertEqual(connection.deadline(), at)
        self.assertIsNone(connection.timeout(at - 0.001))
        broken = connection.timeout(at)
        assert broken is not None
        self.assertBroken(connection, [broken], PeerTimeout, clause)

    def test_silent(self) -> None:
        """
        Who says nothing has until the CONNECT's time.
        """
        self.late(Connection(5.0, connectTimeout=10.0), 15.0)

    def test_drippedConnect(self) -> None:
        """
        Bytes do not extend it.
        """
        connection = Connection(5.0, connectTimeout=10.0)
        for at in range(9):
            connection.receiveData(CONNECT[at : at + 1], 6.0 + at)
        self.late(connection, 15.0)

    def test_whileDecided(self) -> None:
        """
        While the owner decides, the client cannot be late, whatever it has started to send.
        """
        connection = Connection(0.0)
        connection.receiveData(CONNECT + b"\x32", 1.0)
        self.assertIsNone(connection.deadline())
        connection.receiveData(b"\x7f", 2.0)
        self.assertIsNone(connection.timeout(1e6))

    def test_keepAlive(self) -> None:
        """
        One and a half times the keep-alive after the last whole packet of any kind, the client is late
        [MQTT-3.1.2-24].
        """
        connection = opened(100.0, 60)
        self.assertEqual(connection.deadline(), 190.0)
        for at, data in enumerate(
            (
                packets.PINGREQ,
                packets.encodePublish("t", b"", 1, 1),
                packets.encodePublish("t", b"", 0),
                packets.encodeSubscribe(1, [("d", 1)]),
                packets.encodePuback(1),
            )
        ):
            connection.receiveData(data, 150.0 + at)
            self.assertEqual(connection.deadline(), 240.0 + at)
        self.late(connection, 244.0, "MQTT-3.1.2-24")

    def test_keepAliveCountsFromTheAccept(self) -> None:
        """
        A slow decision is not the client's fault; without a time it counts from the last read.
        """
        connection = Connection(0.0)
        connection.receiveData(CONNECT, 1.0)
        connection.accept(False, 10, now=40.0)
        self.assertEqual(connection.deadline(), 55.0)
        connection = Connection(0.0)
        connection.receiveData(CONNECT, 1.0)
        connection.accept(False, 10)
        self.assertEqual(connection.deadline(), 16.0)

    def test_noKeepAlive(self) -> None:
        """
        A keep-alive of 0 is none.
        """
        connection = opened(0.0, 0)
        self.assertIsNone(connection.deadline())
        self.assertIsNone(connection.timeout(1e9))

    def test_partsDoNotKeepAlive(self) -> None:
        """
        A part of a packet is none.
        """
        connection = opened(0.0, 10)
        for at in range(1, 14):
            connection.receiveData(packets.encodePublish("t", bytes(50), 1, 1)[at - 1 : at], float(at))
        self.late(connection, 15.0, "MQTT-3.1.2-24")

    def test_startedPacket(self) -> None:
        """
        A started packet is whole within its time from its first byte; drip does not extend it.
        """
        whole = packets.encodePublish("t", bytes(100), 1, 1)
        connection = opened(0.0, 0, packetTimeout=30.0)
        for at in range(1, 29):
            connection.receiveData(whole[at - 1 : at], float(at))
        self.late(connection, 31.0)

    def test_startedPacketThatEnds(self) -> None:
        """
        Ended in time, the packet is taken and there is no deadline left.
        """
        whole = packets.encodePublish("t", bytes(100_000), 1, 1)
        connection = opened()
        for second in range(25):
            self.assertEqual(connection.receiveData(whole[second * 4000 : (second + 1) * 4000], float(second)), [])
        self.assertEqual(connection.deadline(), 30.0)
        self.assertEqual(len(connection.receiveData(whole[100_000:], 29.0)), 1)
        self.assertIsNone(connection.deadline())

    def test_pipelineIsNotOnePacket(self) -> None:
        """
        Reads that each end within a packet, for longer than one packet may take, are no reason to end.
        """
        whole = packets.encodePublish("t", bytes(100), 1, 1)
        stream = whole * 100
        connection = opened()
        count = 0
        for second, at in enumerate(range(0, len(stream), 80)):
            self.assertIsNone(connection.timeout(float(second)))
            count += len(connection.receiveData(stream[at : at + 80], float(second)))
        self.assertEqual(count, 100)

    def test_startedBehindTheConnect(self) -> None:
        """
        What was started before the accept has its time from there.
        """
        connection = Connection(0.0)
        connection.receiveData(CONNECT + b"\x32", 1.0)
        connection.accept(False, 0, now=50.0)
        self.late(connection, 80.0)

    def test_suspended(self) -> None:
        """
        While reads are paused no timer runs; after it each has as much left as before.
        """
        connection = opened(0.0, 60, packetTimeout=30.0)
        connection.receiveData(packets.PINGREQ, 10.0)
        connection.receiveData(b"\x32", 15.0)
        self.assertEqual(connection.deadline(), 45.0)
        connection.suspend()
        self.assertIsNone(connection.deadline())
        self.assertIsNone(connection.timeout(1000.0))
        connection.suspend()
        connection.resume(1000.0)
        self.assertEqual(connection.deadline(), 1030.0)
        connection.receiveData(packets.encodePublish("t", b"", 1, 1)[1:], 1001.0)
        self.assertEqual(connection.deadline(), 1091.0)

    def test_keepAliveSuspended(self) -> None:
        """
        The keep-alive, too, has left what it had.
        """
        connection = opened(0.0, 60)
        connection.receiveData(packets.PINGREQ, 10.0)
        connection.receiveData(packets.PINGREQ[:1], 20.0)
        connection.receiveData(packets.PINGREQ[1:], 20.0)
        connection.suspend()
        connection.resume(500.0)
        self.late(connection, 590.0, "MQTT-3.1.2-24")

    def test_connectSuspended(self) -> None:
        """
        And the CONNECT.
        """
        connection = Connection(0.0, connectTimeout=10.0)
        connection.receiveData(CONNECT[:3], 4.0)
        connection.suspend()
        connection.resume(100.0)
        self.late(connection, 106.0)

    def test_oneMoreRead(self) -> None:
        """
        A read that comes after the pause is taken, and its packets are not in the future after the resume.
        """
        connection = opened(0.0, 60)
        connection.receiveData(packets.PINGREQ, 10.0)
        connection.suspend()
        self.assertEqual(len(connection.receiveData(packets.encodePublish("t", b"", 1, 1) + b"\x32", 12.0)), 1)
        connection.resume(100.0)
        self.assertEqual(connection.deadline(), 130.0)

    def test_resumeAlone(self) -> None:
        """
        A resume without a pause changes nothing.
        """
        connection = opened(0.0, 60)
        connection.resume(50.0)
        self.assertEqual(connection.deadline(), 90.0)

    def test_pausedAgainAndAgain(self) -> None:
        """
        However often a link is paused, what is started ends after the time that it was read.
        """
        connection = opened(0.0, 0, packetTimeout=30.0)
        connection.receiveData(b"\x32", 0.0)
        now = 0.0
        for _ in itertools.repeat(None, 29):
            now += 1.0
            connection.receiveData(b"\x80" if now < 3 else b"", now)
            connection.suspend()
            now += 5.0
            connection.resume(now)
        self.assertEqual(connection.deadline(), now + 1.0)
