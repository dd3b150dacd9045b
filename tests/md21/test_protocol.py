"""
Tests for L{binaryserver.md21.client} and L{binaryserver.md21.protocol}: a box and a gateway, without sockets.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from argon2 import PasswordHasher
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.directory.records import Account, Box
from binaryserver.errors import StoreUnavailable
from binaryserver.gateway import Limits
from binaryserver.md21 import values
from binaryserver.md21.codec import encode
from binaryserver.md21.deliveries import serverId
from binaryserver.md21.framing import frame
from binaryserver.md21.settings import Md21Settings
from binaryserver.md21.values import Capabilities, Channel, FileStatus, HeaderStatus, MessageStatus, Reason, WantAck
from binaryserver.model import BoxKey, MqttSession
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2, md30_pb2
from binaryserver.session.line import Pause
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.reasons import Ending
from binaryserver.session.reasons import Reason as EndReason
from tests.admission.handdirectory import HandDirectory
from tests.downlink.world import BOX, message
from tests.harness import ASSET, HandReactor, batch
from tests.md21.world import START, Md21Box, Md21World, makeBlock, makeHeader
from tests.md30.test_takeover import Colleagues

DYNAMIC = Capabilities(dynamicChannels=True)

PDUS: list[values.Pdu] = [
    makeHeader(),
    makeBlock(1, 3),
    values.Message(4, 0, "diag", b"x"),
    values.Message(4, 3, None, b"x"),
    values.BaseValues(1, (Channel(3, "c d"),), pingInterval=1),
    values.FileStart(1, "a", 0, bytes(32)),
    values.FilePart(1, 0, b"x"),
    values.MessageAck(MessageStatus.NACK, 0, 5, True),
    values.Disconnect(Reason.ROAMING),
]
PIECES = st.one_of(
    st.binary(max_size=60),
    st.binary(min_size=1, max_size=60).map(frame),
    st.sampled_from(PDUS).map(lambda pdu: frame(encode(pdu))),
)


class Md21Case(SynchronousTestCase):
    """
    One gateway.
    """

    def setUp(self) -> None:
        self.world = Md21World()

    def times(self) -> list[int]:
        """
        Which of the tracks are on the bus, by their numbers.
        """
        return [(event.event_time - START) // 1000 for event in self.world.bus.events("tracks")]

    def presences(self) -> list[str]:
        """
        C{TYPE REASON} of all presences, with C{!} where the reason is the box's own.
        """
        told = []
        for event in self.world.bus.events("presences"):
            one = event.presence
            kind = cloudnext_pb2.PresenceType.Name(one.type).removeprefix("PRESENCE_TYPE_")
            told.append(f"{kind} {one.reason}{'!' * one.reason_from_box}".strip())
        return told

    def refused(self, status: HeaderStatus, **header: Any) -> None:
        """
        A header is answered with that, and the link is closed.
        """
        box = Md21Box(self.world)
        box.send(makeHeader(**header))
        self.assertEqual(box.received(), [values.HeaderAck(status)])
        self.assertTrue(box.isClosed)
        self.assertEqual(self.world.bus.events("presences"), [])


class ArrivalTests(Md21Case):
    """
    Headers.
    """

    def test_presence(self) -> None:
        """
        A box comes, with its reason, and goes, with its reason.
        """
        box = self.world.md21Box(reason=Reason.COLD_BOOT)
        box.send(values.Disconnect(Reason.IDLE_OUT))
        self.assertTrue(box.isClosed)
        self.assertEqual(box.received(), [])
        self.assertEqual(self.presences(), ["CONNECT COLD_BOOT!", "DISCONNECT IDLE_OUT!"])
        event = self.world.bus.events("presences")[0]
        self.assertEqual((event.account, event.asset, event.protocol), ("dev", ASSET, cloudnext_pb2.PROTOCOL_MD21))

    def test_refusals(self) -> None:
        """
        Each with its status, and nothing of it is a presence.
        """
        self.refused(HeaderStatus.UNSUPPORTED_VERSION, version=2)
        self.refused(HeaderStatus.TLS_UNAVAILABLE, tls=True)
        self.refused(HeaderStatus.UNKNOWN_ASSET, asset="a b")
        self.refused(HeaderStatus.UNKNOWN_ACCOUNT, account="a/b")
        self.world.gateway.md21 = Md21Settings(requiresTls=True)
        self.refused(HeaderStatus.TLS_REQUIRED)
        self.assertEqual(self.world.gateway.counters.refusals, 5)

    def test_notAdmitted(self) -> None:
        """
        The directory does not admit it: whatever was wrong, the answer is one.
        """
        hashed = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("right")
        source = HandDirectory(Account("acme", secretHash=hashed), Box("acme", ASSET))
        self.world = Md21World(directory=source)
        for header in ({"account": "other"}, {"account": "acme", "asset": "other"}, {"account": "acme"}):
            box = Md21Box(self.world)
            box.send(makeHeader(**header))
            self.assertEqual(box.received(), [values.HeaderAck(HeaderStatus.BAD_SECRET)])
            self.assertTrue(box.isClosed)
        self.assertEqual(
            self.presences(),
            [f"FAILED_CONNECT AUTH_FAILED_{what}" for what in ("ACCOUNT", "ASSET", "ASSET")],
        )
        self.world.md21Box(account="acme", secret="right")

    def test_tlsRequired(self) -> None:
        """
        That its account requires TLS is told only to a box that has its secret.
        """
        hashed = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("right")
        source = HandDirectory(Account("acme", secretHash=hashed, requiresTls=True), Box("acme", ASSET))
        self.world = Md21World(directory=source)
        for secret, status in (("wrong", HeaderStatus.BAD_SECRET), ("right", HeaderStatus.TLS_REQUIRED)):
            box = Md21Box(self.world)
            box.send(makeHeader(account="acme", secret=secret))
            self.assertEqual(box.received(), [values.HeaderAck(status)])
        self.assertEqual(self.presences()[-1], "FAILED_CONNECT AUTH_FAILED_TRANSPORT")

    def test_storeAway(self) -> None:
        """
        Without the session store nobody comes in.
        """
        store: Any = self.world.store
        store.claim = lambda *arguments: fail(StoreUnavailable("away"))
        self.refused(HeaderStatus.SERVER_BUSY)

    def test_sentAhead(self) -> None:
        """
        What comes with the header, before its answer, is taken after it.
        """
        box = Md21Box(self.world)
        box.send(makeHeader(), values.BaseValueAck(1), makeBlock(1, 2))
        self.assertEqual(
            [type(pdu) for pdu in box.received()], [values.HeaderAck, values.BaseValues, values.TrackingAck]
        )
        self.assertEqual(self.times(), [1, 2])

    def test_leavesWhileAsked(self) -> None:
        """
        A box that is gone before the directory has answered is not told to be here.
        """
        source = HandDirectory(Account("acme", admitsAnyBox=True))
        source.isHeld = True
        self.world = Md21World(directory=source)
        box = Md21Box(self.world)
        box.send(makeHeader(account="acme"))
        box.lose()
        for _ in range(2):
            source.release()
            self.world.turn()
        self.assertEqual(self.presences(), [])

    def test_takeover(self) -> None:
        """
        A second link of the box ends the first at once, and it never counts as gone.
        """
        first = self.world.md21Box()
        second = self.world.md21Box()
        self.assertTrue(first.transport.isAborted)
        second.block(1)
        self.assertEqual(second.acks(), 1)
        self.assertEqual(self.presences(), ["CONNECT", "DISCONNECT TAKEOVER", "RECONNECT"])

    def test_keepsMqttSession(self) -> None:
        """
        A box that was on MD30 finds its session there when it goes back.
        """
        subscriber = self.world.box(clean=False)
        subscriber.subscribe("d")
        subscriber.lose()
        box = self.world.md21Box()
        self.assertTrue(self.world.gateway.delivery.links)
        box.lose()
        found: list[MqttSession | None] = []
        self.world.store.claim(BOX, "test@1", "md30", "", 0, False, "x").addCallback(
            lambda claim: found.append(claim.mqtt)
        )
        self.assertEqual(found, [MqttSession((("d", 1),))])

    def test_shutdown(self) -> None:
        """
        The gateway stops: the box is told.
        """
        box = self.world.md21Box()
        box.link.end(Ending(EndReason.serverShutdown))
        self.world.turn()
        self.assertEqual(box.received(), [values.Disconnect(Reason.SERVER_SHUTDOWN)])
        self.assertEqual(self.presences(), ["CONNECT", "DISCONNECT SERVER_SHUTDOWN"])

    def test_reasons(self) -> None:
        """
        Whatever a link ends for, there is a word of MD21 for it.
        """
        for reason in EndReason:
            box = self.world.md21Box(reason.name)
            box.link.end(Ending(reason))
            told = box.received()
            self.assertEqual(told, [values.Disconnect(Reason[reason.value])])

    def test_lost(self) -> None:
        """
        The connection breaks.
        """
        self.world.md21Box().lose()
        self.world.md21Box().lose(OSError("reset"))
        self.assertEqual(
            self.presences(), ["CONNECT", "DISCONNECT SOCKET_CLOSED", "RECONNECT", "DISCONNECT NETWORK_ERROR"]
        )


class BlockTests(Md21Case):
    """
    Tracks.
    """

    def test_acked(self) -> None:
        """
        An ack a block, once the bus has it, in the order of the blocks.
        """
        self.world.bus.isOpen = False
        box = self.world.md21Box()
        box.block(1, 3)
        box.block(4, 2)
        self.assertEqual(box.acks(), 0)
        self.world.bus.commit()
        self.world.bus.commit()
        self.assertEqual(box.acks(), 1)
        self.world.bus.commit()
        self.assertEqual(box.acks(), 1)
        self.assertEqual(self.times(), [1, 2, 3, 4, 5])

    def test_wantsNone(self) -> None:
        """
        A block that wants no ack has none, and is published all the same; the others' acks are not mixed up by it.
        """
        box = self.world.md21Box()
        box.send(
            makeBlock(1, 1, WantAck.NONE), makeBlock(2), makeBlock(3, 1, WantAck.NONE), makeBlock(4, 1, WantAck.ALL_0)
        )
        self.assertEqual(box.acks(), 2)
        self.assertEqual(self.times(), [1, 2, 3, 4])

    def test_event(self) -> None:
        """
        The event is what MD30 would have made of it: units, fields by number, their kinds.
        """
        fields = ((3, -5), (14, True), (50, "x"), (51, 1.5), (52, b"\x01"))
        track = values.Track(START, -4_885_660, 235_220, fields)
        bare = values.Track(START + 1000, None, None)
        box = self.world.md21Box()
        box.send(values.TrackingData(WantAck.ALL_10, (track, bare)))
        first, second = self.world.bus.events("tracks")
        self.assertEqual(
            first.track,
            md30_pb2.Track(
                recorded_at=START,
                latitude=-488_566_000,
                longitude=23_522_000,
                field_numbers=[3, 14, 50, 51, 52],
                field_values=[
                    md30_pb2.Value(int_value=-5),
                    md30_pb2.Value(bool_value=True),
                    md30_pb2.Value(string_value="x"),
                    md30_pb2.Value(double_value=1.5),
                    md30_pb2.Value(bytes_value=b"\x01"),
                ],
            ),
        )
        self.assertEqual(second.track, md30_pb2.Track(recorded_at=START + 1000))
        self.assertTrue(first.unindexed)

    def test_sentAgain(self) -> None:
        """
        After a reconnect whole blocks come again, cut otherwise: acked, and published once.
        """
        box = self.world.md21Box()
        box.block(1, 5)
        box.lose()
        again = self.world.md21Box()
        again.block(1, 2)
        again.block(3, 5)
        self.assertEqual(again.acks(), 2)
        self.assertEqual(self.times(), [1, 2, 3, 4, 5, 6, 7])

    def test_sentAgainInFlight(self) -> None:
        """
        A block that comes again before it is committed is acked with the first copy, and once each.
        """
        box = self.world.md21Box()
        self.world.bus.isOpen = False
        box.block(1, 2)
        box.block(1, 2)
        self.assertEqual(box.acks(), 0)
        while self.world.bus.waiting:
            self.world.bus.commit()
        self.assertEqual(box.acks(), 2)
        self.assertEqual(self.times(), [1, 2])

    def test_busFails(self) -> None:
        """
        What the bus does not take is not acked, and its link ends.
        """
        box = self.world.md21Box()
        self.world.bus.isOpen = False
        box.block(1, 2)
        self.world.bus.fail()
        self.world.bus.isOpen = True
        self.world.turn()
        self.assertEqual(box.received(), [values.Disconnect(Reason.SOCKET_CLOSED)])
        self.assertTrue(box.isClosed)
        again = self.world.md21Box()
        again.block(1, 2)
        self.assertEqual(again.acks(), 1)
        self.assertEqual(self.times(), [1, 2])

    def test_rejected(self) -> None:
        """
        A track with an absurd time goes to rejects with its block; the others are published, and the block is acked.
        """
        box = self.world.md21Box()
        tracks = [values.Track(START + hours * 3_600_000, None, None) for hours in (11, 27)]
        box.send(values.TrackingData(WantAck.ALL_10, tuple(tracks)))
        self.assertEqual(box.acks(), 1)
        self.assertEqual(self.times(), [11 * 3600])
        (reject,) = self.world.bus.rejects()
        self.assertEqual((reject.source, reject.code), ("md21:tracks", "BAD_TIME"))

    def test_window(self) -> None:
        """
        With as many blocks in flight as the window has, the link is not read; its timers stand still.
        """
        world = self.world = Md21World(linkLimits=Limits(window=4))
        box = world.md21Box()
        world.bus.isOpen = False
        box.send(*(makeBlock(number) for number in range(6)))
        self.assertFalse(box.transport.isReading)
        world.wait(50)
        self.assertFalse(box.isClosed)
        while world.bus.waiting:
            world.bus.commit()
            world.turn()
        self.assertEqual(box.acks(), 6)
        self.assertTrue(box.transport.isReading)


class UplinkMessageTests(Md21Case):
    """
    Messages and files of boxes.
    """

    def test_mapped(self) -> None:
        """
        The ack, once it is durable, gives the temporary id the server's, which the event has too.
        """
        box = self.world.md21Box()
        self.world.bus.isOpen = False
        box.send(values.Message(77, 0, "diag", b"hello", START))
        self.assertEqual(box.received(), [])
        self.world.bus.commit()
        (ack,) = box.received()
        assert isinstance(ack, values.MessageAck) and ack.serverId is not None
        self.assertEqual(ack, values.MessageAck(MessageStatus.ACK, 77, ack.serverId))
        (event,) = self.world.bus.events("messages")
        self.assertEqual((event.message.id, event.message.channel), (str(ack.serverId), "diag"))
        self.assertEqual((event.message.payload, event.event_time), (b"hello", START))

    def test_sentAgain(self) -> None:
        """
        A copy that comes before the ack is not another message; the id is free after it.
        """
        box = self.world.md21Box()
        self.world.bus.isOpen = False
        box.send(values.Message(7, 0, "diag", b"a"))
        box.send(values.Message(7, 0, "diag", b"a"))
        self.world.bus.isOpen = True
        self.world.bus.commit()
        self.assertEqual(len(box.received()), 1)
        box.send(values.Message(7, 0, "diag", b"b"), values.Message(0, 0, "diag", b"c"))
        self.assertEqual(len(box.received()), 1)
        self.assertEqual([event.message.payload for event in self.world.bus.events("messages")], [b"a", b"b", b"c"])

    def test_badChannel(self) -> None:
        """
        A name that no channel can have: its ack says so, once the message is in rejects.
        """
        box = self.world.md21Box()
        box.send(values.Message(7, 0, "a b", b"x"))
        (ack,) = box.received()
        assert isinstance(ack, values.MessageAck)
        self.assertIs(ack.status, MessageStatus.BAD_CHANNEL)
        (reject,) = self.world.bus.rejects()
        self.assertEqual((reject.source, reject.code), ("md21:message", "BAD_CHANNEL"))

    def test_unknownChannels(self) -> None:
        """
        A number that was not announced ends the link, with its reason.
        """
        for capabilities, reason in ((DYNAMIC, "UNKNOWN_DYNAMIC_CHANNEL"), (Capabilities(), "UNKNOWN_CHANNEL")):
            box = self.world.md21Box(capabilities=capabilities)
            box.send(values.Message(1, 9, None, b"x"))
            self.assertEqual(box.received(), [values.Disconnect(Reason[reason])])
            self.assertTrue(box.isClosed)
            self.assertEqual(self.presences()[-1], f"DISCONNECT {reason}")

    def test_file(self) -> None:
        """
        A file is a message on the channel C{file}, named by its id; complete once it is durable.
        """
        box = self.world.md21Box(capabilities=Capabilities(files=True))
        data = bytes(range(256)) * 100
        box.send(values.FileStart(3, "trip.log", len(data), sha256(data).digest()))
        self.assertEqual(box.received(), [values.FileAck(3, 0, FileStatus.OK)])
        box.send(values.FilePart(3, 0, data[:20_000]))
        self.assertEqual(box.received(), [values.FileAck(3, 20_000, FileStatus.OK)])
        self.world.bus.isOpen = False
        box.send(values.FilePart(3, 20_000, data[20_000:]))
        self.assertEqual(box.received(), [])
        self.world.bus.commit()
        self.assertEqual(box.received(), [values.FileAck(3, len(data), FileStatus.COMPLETE)])
        (event,) = self.world.bus.events("messages")
        self.assertEqual((event.message.id, event.message.channel), ("trip.log", "file"))
        self.assertEqual(event.message.payload, data)

    def test_filesAreBounded(self) -> None:
        """
        Files under way count in what all links may hold; one that is too large is refused at its start.
        """
        world = self.world = Md21World(linkLimits=Limits(partialPackets=100_000))
        boxes = [world.md21Box(f"box-{number}") for number in range(3)]
        for box in boxes:
            box.send(values.FileStart(1, "f", 262_145, bytes(32)), values.FileStart(1, "f", 60_000, bytes(32)))
        self.assertEqual(boxes[0].received()[0], values.FileAck(1, 0, FileStatus.TOO_LARGE))
        self.assertEqual([box.transport.isReading for box in boxes], [True, False, False])
        boxes[0].lose()
        self.assertEqual([box.transport.isReading for box in boxes[1:]], [True, False])


class DownlinkTests(Md21Case):
    """
    Messages for boxes.
    """

    def got(self, box: Md21Box) -> values.Message:
        """
        The one message that the box was sent.
        """
        (pdu,) = box.received()
        assert isinstance(pdu, values.Message), pdu
        return pdu

    def test_acked(self) -> None:
        """
        A box listens from its header on; the ack of its link is the end.
        """
        self.world.bring(message("m1", expires_at=START + 7_200_000))
        box = self.world.md21Box()
        got = self.got(box)
        self.assertEqual((got.channel, got.channelName, got.payload), (0, "config", b"m1"))
        self.assertEqual((got.serverId, got.wantAck, got.expiresAt), (serverId("m1"), False, START + 7_200_000))
        box.send(values.MessageAck(MessageStatus.ACK, got.temporaryId))
        self.assertEqual(self.world.statuses("m1"), ["queued", "sent", "acked"])
        self.assertEqual(self.world.mail(), [])

    def test_channelNumbers(self) -> None:
        """
        A box with a dynamic table is told a number first; one that it announced itself is used as it is.
        """
        box = self.world.md21Box(capabilities=DYNAMIC)
        box.send(values.BaseValues(1, (Channel(1, "media"),)))
        box.received()
        self.world.bring(message("m1"), message("m2"), message("m3", channel="media"))
        reconfigure, *messages = box.received()
        self.assertEqual(reconfigure, values.ReconfigureMsg((Channel(2, "config"),)))
        found = [(one.channel, one.channelName) for one in messages if isinstance(one, values.Message)]
        self.assertEqual(found, [(2, None), (2, None), (1, None)])

    def test_refused(self) -> None:
        """
        NACK and BAD_CHANNEL end it, with their reasons, whether an application was to answer or not.
        """
        box = self.world.md21Box()
        for number, (status, reason) in enumerate(
            ((MessageStatus.NACK, "NOT_UNDERSTOOD"), (MessageStatus.BAD_CHANNEL, "NO_LISTENER"))
        ):
            for wantAck in (False, True):
                id_ = f"m{number}{wantAck}"
                self.world.bring(message(id_, want_ack=wantAck))
                box.send(values.MessageAck(status, self.got(box).temporaryId))
                self.assertEqual(self.world.statuses(id_)[-1], f"refused {reason}")
        self.assertEqual(self.world.mail(), [])

    def test_application(self) -> None:
        """
        With want_ack it is delivered by the link's ack, and ended by the application's: an event as MD30's.
        """
        box = self.world.md21Box()
        for id_, status, final in (
            ("m1", MessageStatus.ACK, "acked"),
            ("m2", MessageStatus.NACK, "refused NOT_UNDERSTOOD"),
            ("m3", MessageStatus.BAD_CHANNEL, "refused NO_LISTENER"),
        ):
            self.world.bring(message(id_, want_ack=True))
            got = self.got(box)
            self.assertTrue(got.wantAck)
            box.send(values.MessageAck(MessageStatus.ACK, got.temporaryId))
            self.assertEqual(self.world.statuses(id_)[-1], "delivered")
            box.send(values.MessageAck(status, 0, got.serverId, True))
            self.assertEqual(self.world.statuses(id_)[-1], final)
        events = self.world.bus.events("messages")
        self.assertEqual([event.message.ack_of for event in events], ["m1", "m2", "m3"])
        self.assertEqual(
            [event.message.ack_status for event in events],
            [md30_pb2.ACK_STATUS_OK, md30_pb2.ACK_STATUS_NOT_UNDERSTOOD, md30_pb2.ACK_STATUS_NO_LISTENER],
        )

    def test_applicationByTemporaryId(self) -> None:
        """
        On the same link the temporary id is enough, before the link's own ack or after it; one that is nobody's is
        passed over.
        """
        box = self.world.md21Box()
        for id_, isAcked in (("m1", False), ("m2", True)):
            self.world.bring(message(id_, want_ack=True))
            temporaryId = self.got(box).temporaryId
            if isAcked:
                box.send(values.MessageAck(MessageStatus.ACK, temporaryId))
            box.send(values.MessageAck(MessageStatus.ACK, temporaryId, None, True))
            self.assertEqual(self.world.statuses(id_)[-1], "acked")
        box.send(values.MessageAck(MessageStatus.ACK, 999, None, True), values.MessageAck(MessageStatus.ACK, 999))
        self.assertEqual(len(self.world.bus.events("messages")), 2)
        self.assertFalse(box.isClosed)

    def test_applicationOverALaterLink(self) -> None:
        """
        The answer names by the server's id what came over an earlier link; one that is not there any more is passed
        over.
        """
        box = self.world.md21Box()
        self.world.bring(message("m1", want_ack=True))
        box.send(values.MessageAck(MessageStatus.ACK, self.got(box).temporaryId))
        box.lose()
        box = self.world.md21Box()
        self.assertEqual(box.received(), [])
        box.send(
            values.MessageAck(MessageStatus.ACK, 0, serverId("nobody's"), True),
            values.MessageAck(MessageStatus.ACK, 0, serverId("m1"), True),
            makeBlock(1),
        )
        self.assertEqual(box.acks(), 1)
        self.assertEqual(self.world.statuses("m1")[-1], "acked")
        self.assertTrue(box.transport.isReading)

    def test_again(self) -> None:
        """
        What was not acked comes again over the next link, known by the server's id.
        """
        box = self.world.md21Box()
        self.world.bring(message("m1"))
        first = self.got(box)
        box.lose()
        self.assertEqual(self.got(self.world.md21Box()).serverId, first.serverId)

    def test_ackTimeout(self) -> None:
        """
        A box that does not ack what it was sent loses its link.
        """
        box = self.world.md21Box()
        self.world.bring(message("m1"))
        self.got(box)
        self.world.wait(62)
        self.assertEqual(box.received(), [values.Disconnect(Reason.MESSAGE_ACK_TIMEOUT)])
        self.assertEqual(self.presences()[-1], "DISCONNECT MESSAGE_ACK_TIMEOUT")

    def test_tooLarge(self) -> None:
        """
        A payload that no PDU can hold is refused, and blocks nothing.
        """
        world = self.world = Md21World(maxPayload=70_000)
        box = world.md21Box()
        world.bring(message("m1", payload=bytes(64_001)), message("m2"))
        self.assertEqual(self.got(box).payload, b"m2")
        self.assertEqual(world.statuses("m1")[-1], "refused MESSAGE_TOO_LARGE")

    def test_moves(self) -> None:
        """
        A box that comes back on MD30 finds its mailbox there, and the other way round.
        """
        box = self.world.md21Box()
        self.world.bring(message("m1"))
        self.got(box)
        box.lose()
        other = self.world.box()
        other.subscribe("d")
        self.world.turn()
        self.assertTrue(any(packet[0] & 0xF0 == 0x30 and b"m1" in packet for packet in other.received()))
        other.lose()
        self.assertEqual(self.got(self.world.md21Box()).payload, b"m1")


class HostileTests(Md21Case):
    """
    Peers that break rules, or are slow.
    """

    def test_order(self) -> None:
        """
        Tracks before the header: closed, counted, nothing taken.
        """
        box = Md21Box(self.world)
        box.block(1)
        self.assertEqual(box.received(), [])
        self.assertTrue(box.isClosed)
        self.assertEqual(self.world.gateway.counters.violations, 1)
        self.assertEqual(self.world.bus.committed, [])

    def test_malformed(self) -> None:
        """
        Bytes that are no PDU end the link behind what came before them.
        """
        box = self.world.md21Box()
        box.write(frame(encode(makeBlock(1))) + frame(b"\xff\xff"))
        self.assertTrue(box.isClosed)
        self.assertEqual(self.times(), [1])
        self.assertEqual(self.presences(), ["CONNECT", "DISCONNECT NETWORK_ERROR"])

    def test_timeouts(self) -> None:
        """
        No header, no ack of the base values, no PDU: each with its reason.
        """
        silent = Md21Box(self.world)
        self.world.wait(12)
        self.assertTrue(silent.isClosed)
        self.assertEqual(self.presences(), [])
        box = Md21Box(self.world)
        box.send(makeHeader())
        self.world.wait(62)
        self.assertEqual(box.received()[-1], values.Disconnect(Reason.BASEVALUE_ACK_TIMEOUT))
        box = self.world.md21Box("other")
        self.world.wait(152)
        (ping,) = box.received()
        assert isinstance(ping, values.Ping)
        self.world.wait(152)
        self.assertEqual(box.received(), [values.Disconnect(Reason.NETWORK_ACTIVITY_TIMEOUT)])
        self.assertEqual(
            self.presences(),
            ["CONNECT", "DISCONNECT BASEVALUE_ACK_TIMEOUT", "CONNECT", "DISCONNECT NETWORK_ACTIVITY_TIMEOUT"],
        )

    def test_slowReader(self) -> None:
        """
        A box that does not read what it is sent is not read either, and lost in the end.
        """
        box = self.world.md21Box()
        box.link.pauseProducing()
        self.assertFalse(box.transport.isReading)
        self.world.wait(32)
        self.assertTrue(box.transport.isAborted)
        self.assertEqual(self.presences()[-1], "DISCONNECT NETWORK_ERROR")

    def test_manyPdus(self) -> None:
        """
        A flood of application's answers takes its turns with the reactor's other work.
        """
        box = self.world.md21Box()
        answer = values.MessageAck(MessageStatus.ACK, 5, None, True)
        box.send(*([answer] * 1000), makeBlock(1))
        self.world.turn()
        self.assertEqual(box.acks(), 1)

    def test_answersAtOnce(self) -> None:
        """
        Parts of no file, files that are refused, acks of nothing: a link that brings many of them waits, and others
        are served meanwhile; what a box sends that waits for its answers never makes it wait.
        """
        floods: tuple[values.Pdu, ...] = (
            values.FilePart(1, 0, b"x"),
            values.MessageAck(MessageStatus.ACK, 7),
            values.MessageAck(MessageStatus.NACK, 7),
        )
        for flood in floods:
            box = self.world.md21Box("flooding")
            for _ in range(3):
                box.send(*([flood] * 100))
            self.assertTrue(box.link.pauses & Pause.controls, flood)
            self.world.wait(61)
            self.assertEqual(box.link.pauses, Pause.none)
            box.lose()

    def test_smallParts(self) -> None:
        """
        A file in parts of one byte each: one that is not waited for by the box counts, one that is does not.
        """
        start = values.FileStart(1, "f", 100_000, bytes(32))
        waiting = self.world.md21Box("waiting")
        waiting.send(start)
        for number in range(600):
            waiting.send(values.FilePart(1, number, b"x"))
        self.assertEqual(waiting.link.pauses, Pause.none)
        flooding = self.world.md21Box("flooding")
        flooding.send(start, *(values.FilePart(1, number, b"x") for number in range(600)))
        self.assertTrue(flooding.link.pauses & Pause.controls)

    def test_unknownAnswers(self) -> None:
        """
        Answers of the application to messages that nobody sent: each asks the session store, and so they are few.
        """
        box = self.world.md21Box()
        asked: list[BoxKey] = []
        store: Any = self.world.store
        mailbox = store.mailbox

        def ask(key: BoxKey) -> Any:
            asked.append(key)
            return mailbox(key)

        store.mailbox = ask
        box.send(*(values.MessageAck(MessageStatus.ACK, 0, number + 1, True) for number in range(1000)))
        self.assertTrue(box.link.pauses & Pause.controls)
        self.assertLess(len(asked), 250)


class FuzzTests(SynchronousTestCase):
    """
    Bytes from nowhere, through the whole link.
    """

    @given(st.lists(PIECES, max_size=8), st.booleans())
    @settings(max_examples=150, deadline=None)
    def test_anything(self, pieces: list[bytes], isHere: bool) -> None:
        """
        Whatever comes, nothing is raised, and the gateway goes on: with nothing in flight, and for the next box.
        """
        world = Md21World()
        box = world.md21Box(capabilities=Capabilities(False, True, True)) if isHere else Md21Box(world)
        for piece in pieces:
            box.write(piece)
        box.lose()
        world.wait(1)
        self.assertEqual(world.gateway.uplink.pendingBytes, 0)
        self.assertEqual(world.gateway.registry.links, set())
        other = world.md21Box("other")
        other.block(1)
        self.assertEqual(other.acks(), 1)


class MovingTests(SynchronousTestCase):
    """
    Two instances, one box.
    """

    def test_waitsForTheOldOwner(self) -> None:
        """
        What the old owner has in flight is not published by the new one; the new link is answered at once, its blocks
        once the old ones are settled.
        """
        peers = Colleagues()
        store = MemorySessionStore("memory:", BackEndContext(HandReactor(), "--test"))
        worlds = [Md21World(store=store, peers=peers, incarnation=f"{name}@1") for name in "ab"]
        peers.worlds = {f"{name}@1": world for name, world in zip("ab", worlds, strict=True)}
        old = worlds[0].md21Box()
        worlds[0].bus.isOpen = False
        old.block(1, 3)
        new = worlds[1].md21Box()
        self.assertTrue(old.transport.isAborted)
        new.block(2, 4)
        self.assertEqual((new.acks(), new.transport.isReading), (0, False))
        worlds[0].bus.commit()
        while worlds[0].bus.waiting:
            worlds[0].bus.commit()
        for _ in range(3):
            for world in worlds:
                world.turn()
        self.assertEqual((new.acks(), new.transport.isReading), (1, True))
        times = [(event.event_time - START) // 1000 for world in worlds for event in world.bus.events("tracks")]
        self.assertEqual(times, [1, 2, 3, 4, 5])


class BothProtocolsTests(Md21Case):
    """
    One box, one store, two protocols.
    """

    def test_fallsBack(self) -> None:
        """
        From MD30 to MD21 and back: one identity, whose epochs grow, and whose index stays.
        """
        modern = self.world.box()
        modern.tracks(1, 3)
        modern.lose()
        legacy = self.world.md21Box()
        legacy.block(1, 2)
        modern = self.world.box()
        self.assertTrue(legacy.transport.isAborted)
        modern.publish("t", batch(1, 4), 5)
        self.assertEqual(modern.acks(), [5])
        events = self.world.bus.events("tracks")
        self.assertEqual([event.index for event in events if event.stream], [1, 2, 3, 4])
        epochs = [event.link_epoch for event in self.world.bus.events("presences")]
        self.assertEqual(sorted(set(epochs)), list(dict.fromkeys(epochs)))
        self.assertEqual(self.world.gateway.registry.boxes.keys(), {BoxKey("dev", ASSET)})
