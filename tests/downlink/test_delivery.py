"""
Tests for L{binaryserver.downlink}: the way of a message from the bus to its box, and of what became of it back (G5).
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import StoreUnavailable
from binaryserver.model import Final, FinalStatus, MailboxLimits, StoredRecord
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2, md30_pb2
from binaryserver.session.memorystore import MemorySessionStore
from tests.downlink.world import (
    BOX,
    DownlinkWorld,
    answer,
    delivered,
    listening,
    message,
    puback,
    read,
    subscribe,
)
from tests.harness import ASSET, NOW_MS, Box, HandReactor


class WayTests(SynchronousTestCase):
    """
    The usual way.
    """

    def test_online(self) -> None:
        """
        To a box that listens: sent at once, acked by its PUBACK, told, and gone [MQTT-4.3.2-1].
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message("m1", correlation_id="c1"))
        (sent,) = delivered(box)
        self.assertEqual((sent.topic, sent.qos, sent.dup), ("d", 1, False))
        self.assertEqual((sent.message.id, sent.message.channel, sent.message.payload), ("m1", "config", b"m1"))
        self.assertEqual(sent.message.expires_at, NOW_MS + 3_600_000, "by the record's own time")
        self.assertEqual(world.statuses("m1"), ["queued", "sent"])
        box.send(puback(sent.packetId))
        self.assertEqual(world.statuses("m1"), ["queued", "sent", "acked"])
        self.assertEqual(world.mail(), [])
        status = world.bus.events("statuses")[-1]
        self.assertEqual((status.account, status.asset), BOX)
        self.assertEqual((status.message_status.correlation_id, status.message_status.attempts), ("c1", 1))
        self.assertEqual(world.bus.consumer.committed, {("binaryserver.downlink", 0): 1})

    def test_away(self) -> None:
        """
        To a box that is away: it waits in the mailbox, and comes in order once the box is subscribed [MQTT-3.1.2-5].
        """
        world = DownlinkWorld()
        world.bring(message("m1"), message("m2"))
        self.assertEqual(world.statuses(), ["m1 queued", "m2 queued"])
        box = world.box()
        world.bring(message("m3"))
        self.assertEqual(box.received(), [])
        subscribe(box, "boxes/+/downlink")
        sent = delivered(box)
        self.assertEqual([one.message.id for one in sent], ["m1", "m2", "m3"])
        self.assertEqual({one.topic for one in sent}, {f"boxes/{ASSET}/downlink"})

    def test_window(self) -> None:
        """
        No more than the window is sent and not acked; each ack lets the next one go, in order.
        """
        world = DownlinkWorld()
        world.gateway.delivery._limit = 2
        box = listening(world)
        world.bring(*(message(f"m{n}") for n in range(5)))
        sent = delivered(box)
        self.assertEqual([one.message.id for one in sent], ["m0", "m1"])
        box.send(puback(sent[0].packetId))
        (third,) = delivered(box)
        self.assertEqual(third.message.id, "m2")
        box.send(puback(sent[1].packetId, third.packetId))
        self.assertEqual([one.message.id for one in delivered(box)], ["m3", "m4"])

    def test_redelivery(self) -> None:
        """
        What was not acked comes again over the next link, before what is new [MQTT-4.6.0-1], with DUP [MQTT-3.3.1-1]
        and its own packet id [MQTT-4.4.0-1], whatever became of the MQTT session.
        """
        for clean in (True, False):
            world = DownlinkWorld()
            box = listening(world, clean=clean)
            world.bring(message("m1"), message("m2"))
            first, second = delivered(box)
            box.send(puback(second.packetId))
            box.lose()
            world.bring(message("m3"))
            again = Box(world).connect(clean=clean)
            if clean:
                again.received()
                subscribe(again)
                sent = delivered(again)
            else:
                packets = again.received()
                self.assertEqual(packets[0], b"\x20\x02\x01\x00")
                sent = [read(packet) for packet in packets[1:]]
            self.assertEqual([(one.message.id, one.dup) for one in sent], [("m1", True), ("m3", False)])
            self.assertEqual(sent[0].packetId, first.packetId)
            self.assertEqual(world.statuses("m1"), ["queued", "sent", "sent"])

    def test_takeover(self) -> None:
        """
        A new link of the box gets the mailbox; the old one's acks are as good as ever, and nothing is sent over it.
        """
        world = DownlinkWorld()
        old = listening(world)
        world.bring(message("m1"))
        new = listening(world)
        (again,) = delivered(new)
        self.assertTrue(again.dup)
        world.bring(message("m2"))
        self.assertEqual([one.message.id for one in delivered(new)], ["m2"])
        self.assertEqual([one.message.id for one in delivered(old)], ["m1"])

    def test_wantAck(self) -> None:
        """
        With C{want_ack} the PUBACK is progress, and the application's answer is final; the answer's own PUBACK waits
        until it is written.
        """
        for status, told in (
            (md30_pb2.ACK_STATUS_OK, "acked"),
            (md30_pb2.ACK_STATUS_NO_LISTENER, "refused NO_LISTENER"),
            (md30_pb2.ACK_STATUS_NOT_UNDERSTOOD, "refused NOT_UNDERSTOOD"),
        ):
            world = DownlinkWorld()
            box = listening(world)
            world.bring(message("m1", want_ack=True))
            (sent,) = delivered(box)
            self.assertTrue(sent.message.want_ack)
            box.send(puback(sent.packetId))
            self.assertEqual(world.statuses("m1"), ["queued", "sent", "delivered"])
            self.assertEqual(len(world.mail()), 1)
            box.send(answer("m1", status))
            self.assertEqual(box.acks(), [9])
            self.assertEqual(world.statuses("m1"), ["queued", "sent", "delivered", told])
            self.assertEqual(world.mail(), [])
            self.assertEqual(world.bus.events("messages")[0].message.ack_of, "m1")

    def test_answerBeforePuback(self) -> None:
        """
        An application may answer before its client acks, also over another link, and also what nobody asked.
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message("m1", want_ack=True), message("m2"))
        sent = delivered(box)
        box.send(answer("m1") + answer("unheard-of", packetId=10))
        self.assertEqual(box.acks(), [9, 10])
        box.send(puback(sent[0].packetId) * 2)
        box.send(answer("m1", md30_pb2.ACK_STATUS_NO_LISTENER))
        self.assertEqual(world.statuses("m1"), ["queued", "sent", "acked"])
        self.assertEqual(world.statuses("m2"), ["queued", "sent"])

    def test_qos0(self) -> None:
        """
        A box that wants QoS 0 gets it, and its messages are final once sent.
        """
        world = DownlinkWorld()
        box = listening(world, qos=0)
        world.bring(message("m1"), message("m2", want_ack=True))
        self.assertEqual([(one.qos, one.packetId) for one in delivered(box)], [(0, 0), (0, 0)])
        self.assertEqual(world.statuses("m1"), ["queued", "sent", "acked"])
        self.assertEqual(world.statuses("m2"), ["queued", "sent", "delivered"])

    def test_unsubscribed(self) -> None:
        """
        After UNSUBSCRIBE nothing more is sent; what was sent is still acked [MQTT-3.10.4-3].
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message("m1"))
        (sent,) = delivered(box)
        box.send(b"\xa2\x05\x00\x05\x00\x01d")
        self.assertEqual(box.received(), [b"\xb0\x02\x00\x05"])
        world.bring(message("m2"), message("m3", no_queue=True))
        box.send(puback(sent.packetId))
        self.assertEqual(box.received(), [])
        self.assertEqual(world.statuses("m1")[-1], "acked")
        self.assertEqual(world.statuses("m3"), ["refused BOX_AWAY"])
        subscribe(box)
        self.assertEqual([one.message.id for one in delivered(box)], ["m2"])

    def test_order(self) -> None:
        """
        What comes while the session store is asked is sent behind it [MQTT-4.6.0-6].
        """
        world = DownlinkWorld()
        box = listening(world)
        for start in range(0, 60, 3):
            world.bus.consumer.bring(*(message(f"m{n}") for n in range(start, start + 3)))
            world.clock.advance(0.005)
        ids = []
        for _ in range(20):
            world.turn()
            sent = delivered(box)
            ids += [one.message.id for one in sent]
            box.send(puback(*(one.packetId for one in sent)))
        self.assertEqual(ids, [f"m{n}" for n in range(60)])
        self.assertEqual(sum(one.endswith("acked") for one in world.statuses()), 60)


class EndTests(SynchronousTestCase):
    """
    Every message ends in one final status.
    """

    def test_noQueue(self) -> None:
        """
        It goes to a box that listens, and is refused at once when there is none.
        """
        world = DownlinkWorld()
        world.bring(message("m1", no_queue=True))
        self.assertEqual(world.statuses("m1"), ["refused BOX_AWAY"])
        self.assertEqual(world.mail(), [])
        box = listening(world)
        world.bring(message("m1", no_queue=True), message("m2", no_queue=True))
        (sent,) = delivered(box)
        self.assertEqual(sent.message.id, "m2")
        box.send(puback(sent.packetId))
        self.assertEqual(world.statuses("m2")[-1], "acked")
        self.assertEqual(world.statuses("m1"), ["refused BOX_AWAY"])

    def test_noQueueWithoutRoom(self) -> None:
        """
        It does not wait for the window either, nor for another link.
        """
        world = DownlinkWorld()
        world.gateway.delivery._limit = 1
        box = listening(world)
        world.bring(message("m1"), message("m2", no_queue=True))
        self.assertEqual([one.message.id for one in delivered(box)], ["m1"])
        box.lose()
        listening(world)
        world.wait(5)
        self.assertEqual(world.statuses("m2"), ["queued", "refused BOX_AWAY"])

    def test_expired(self) -> None:
        """
        A message is not sent once its time is over, and its sender is told.
        """
        world = DownlinkWorld(channels=("config=5",))
        world.bring(message("m1", expires_at=NOW_MS + 2000), message("m2"), message("m3", channel="other"))
        world.bring(message("m4", expires_at=NOW_MS - 1))
        self.assertEqual(world.statuses("m4"), ["expired"])
        world.wait(4)
        self.assertEqual(world.statuses("m1"), ["queued", "expired"])
        world.wait(3)
        self.assertEqual(world.statuses("m2"), ["queued", "expired"])
        box = listening(world)
        self.assertEqual([one.message.id for one in delivered(box)], ["m3"])

    def test_full(self) -> None:
        """
        A mailbox that is full refuses, by count and by size; acks make room.
        """
        world = DownlinkWorld(limits=MailboxLimits(2, 100))
        world.bring(message("m1"), message("m2", payload=b"x" * 99), message("m3"), message("m4"))
        self.assertEqual(
            world.statuses(), ["m1 queued", "m2 refused MAILBOX_FULL", "m3 queued", "m4 refused MAILBOX_FULL"]
        )
        box = listening(world)
        box.send(puback(*(one.packetId for one in delivered(box))))
        world.bring(message("m5"))
        self.assertEqual(world.statuses("m5"), ["queued", "sent"])

    def test_repeated(self) -> None:
        """
        A record that comes again changes nothing: while its message waits, and after it has ended.
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message("m1"), message("m1"))
        world.bring(message("m1"))
        (sent,) = delivered(box)
        box.send(puback(sent.packetId))
        world.bring(message("m1"))
        self.assertEqual(box.received(), [])
        self.assertEqual(world.statuses("m1"), ["queued", "sent", "acked"])

    def test_namedByTheRecord(self) -> None:
        """
        Without an id a message is named by its record.
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message(""), message(""))
        ids = [one.message.id for one in delivered(box)]
        self.assertEqual(ids, ["binaryserver.downlink/0/0", "binaryserver.downlink/0/1"])

    def test_rejected(self) -> None:
        """
        What cannot be used goes to C{rejects}, with a status where it is known whose it is, and blocks nothing.
        """
        world = DownlinkWorld()
        topic = "binaryserver.downlink"
        bad: list[cloudnext_pb2.DownlinkMessage | StoredRecord] = [
            StoredRecord(topic, 0, 0, 0, b"k", b"\xff\xff"),
            StoredRecord(topic, 0, 0, 0, b"k", b"[1]", (("content-type", b"application/json"),)),
            message("m1", asset="no/box"),
            message("x" * 129),
            message("m2", channel=""),
            message("m3", payload=b"x" * 5000),
            message("m4", expires_at=-1),
            message("m5", correlation_id="c" * 129),
        ]
        world.bus.consumer.bring(*bad, message("m6"))
        world.turn()
        codes = ["DECODE", "DECODE", "BAD_BOX", "BAD_ID", "BAD_CHANNEL", "MESSAGE_TOO_LARGE", "BAD_EXPIRY", "BAD_ID"]
        self.assertEqual([reject.code for reject in world.bus.rejects()], codes)
        self.assertEqual(world.bus.rejects()[0].payload, b"\xff\xff")
        self.assertEqual(world.bus.rejects()[0].source, "binaryserver.downlink/0/0")
        self.assertEqual(
            world.statuses(),
            [
                "m2 rejected BAD_CHANNEL",
                "m3 rejected MESSAGE_TOO_LARGE",
                "m4 rejected BAD_EXPIRY",
                "m5 rejected BAD_ID",
                "m6 queued",
            ],
        )
        self.assertEqual(world.bus.consumer.committed, {(topic, 0): 9})

    def test_rejectsFirst(self) -> None:
        """
        The offset waits until a reject is durable.
        """
        world = DownlinkWorld()
        world.bus.isOpen = False
        world.bus.consumer.bring(StoredRecord("binaryserver.downlink", 0, 0, 0, b"k", b"\xff\xff"))
        world.turn()
        self.assertEqual(world.bus.consumer.committed, {})
        world.bus.fail()
        world.bus.isOpen = True
        world.wait(2)
        self.assertEqual(world.bus.consumer.committed, {("binaryserver.downlink", 0): 1})

    def test_json(self) -> None:
        """
        JSON is taken where the record's content type says so.
        """
        world = DownlinkWorld()
        text = b'{"id": "m1", "account": "dev", "asset": "%b", "channel": "config", "payload": "aGk"}'
        headers = (("Content-Type", b"application/json; charset=utf-8"),)
        world.bus.consumer.bring(StoredRecord("binaryserver.downlink", 0, 0, 0, b"", text % ASSET.encode(), headers))
        world.turn()
        (entry,) = world.mail()
        self.assertEqual((entry.message.id, entry.message.payload), ("m1", b"hi"))
        for wrong in (b'"payload": "not b64!"', b'"text": "hi"', b'"payload": 7', b'"payload": "aGk=", "id": 7'):
            value = b'{"account": "dev", "asset": "box", "channel": "config", %b}' % wrong
            world.bring(StoredRecord("binaryserver.downlink", 0, 0, 0, b"", value, headers))
            self.assertEqual(world.bus.rejects()[-1].code, "DECODE", wrong)
        world.bring(StoredRecord("binaryserver.downlink", 0, 0, 0, b"", value))
        self.assertIn("content-type", world.bus.rejects()[-1].reason)

    def test_answerWithoutChannel(self) -> None:
        """
        An answer need not name the channel; a message has to.
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message("m1", want_ack=True))
        delivered(box)
        bare = md30_pb2.Message(ack_of="m1", ack_status=md30_pb2.ACK_STATUS_OK)
        box.publish("m", bare.SerializeToString(), 3)
        box.publish("m", md30_pb2.Message(payload=b"x").SerializeToString(), 4)
        self.assertEqual(box.acks(), [3, 4])
        self.assertEqual(world.statuses("m1")[-1], "acked")
        self.assertEqual([reject.code for reject in world.bus.rejects()], ["BAD_CHANNEL"])


class AwayStore(MemorySessionStore):
    """
    A session store that can be away.
    """

    def __init__(self) -> None:
        self.reactor = HandReactor()
        MemorySessionStore.__init__(self, "memory:", BackEndContext(self.reactor, "--test"))
        self.isAway = False
        self.isLost = False

    def __getattribute__(self, name: str) -> object:
        value = object.__getattribute__(self, name)
        if name in ("putMessages", "takeMessages", "progressMessages", "removeMessages", "dueMessages", "saveMqtt"):
            if object.__getattribute__(self, "isAway"):
                return lambda *arguments: fail(StoreUnavailable("away"))
            if object.__getattribute__(self, "isLost"):

                def lost(*arguments: object) -> Deferred[object]:
                    value(*arguments)
                    return fail(StoreUnavailable("its answer was lost"))

                return lost
        return value


class OutageTests(SynchronousTestCase):
    """
    The session store or the bus is away for a while, at each step.
    """

    def run_(self, attribute: str) -> None:
        store = AwayStore()
        world = DownlinkWorld(store=store)
        box = listening(world)

        def outage() -> None:
            setattr(store, attribute, True)

        def over() -> None:
            setattr(store, attribute, False)
            world.wait(25)

        outage()
        world.bus.consumer.bring(message("m1", want_ack=True), message("m2"))
        world.wait(3)
        self.assertEqual((world.bus.consumer.committed, delivered(box)), ({}, []))
        over()
        sent = delivered(box)
        self.assertEqual([one.message.id for one in sent], ["m1", "m2"])
        outage()
        box.send(puback(*(one.packetId for one in sent)))
        box.send(answer("m1"))
        world.wait(3)
        self.assertEqual(box.received(), [], "the answer was acked before it was written")
        over()
        self.assertEqual(box.acks(), [9])
        for one in ("m1", "m2"):
            told = world.statuses(one)
            self.assertEqual((told[-1], told.count("acked")), ("acked", 1))
        self.assertEqual(world.mail(), [])
        self.assertTrue(box.transport.isReading)

    def test_storeAway(self) -> None:
        """
        Nothing is lost and nobody's link with it; all goes on by itself.
        """
        self.run_("isAway")

    def test_answersLost(self) -> None:
        """
        Nor when each step was taken and its answer lost.
        """
        self.run_("isLost")

    def test_subscribeWhileAway(self) -> None:
        """
        A SUBSCRIBE waits for the store, and the link with it.
        """
        store = AwayStore()
        world = DownlinkWorld(store=store)
        box = world.box()
        store.isAway = True
        box.subscribe("d")
        world.wait(3)
        self.assertEqual((box.received(), box.transport.isAborted), ([], False))
        store.isAway = False
        world.wait(2)
        self.assertEqual(box.received(), [b"\x90\x03\x00\x64\x01"])

    def test_busAway(self) -> None:
        """
        The entry stays in the mailbox until its final status is durable.
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message("m1"))
        (sent,) = delivered(box)
        world.bus.isOpen = False
        box.send(puback(sent.packetId))
        (entry,) = world.mail()
        self.assertEqual(entry.final, Final(FinalStatus.acked, "", entry.deliveredAt))
        for _ in range(3):
            world.bus.fail()
            world.wait(1.5)
            self.assertEqual(len(world.mail()), 1)
        world.bus.isOpen = True
        world.bus.commit()
        world.turn()
        self.assertEqual(world.statuses("m1"), ["queued", "sent", "acked"])
        self.assertEqual(world.mail(), [])

    def test_consumerFails(self) -> None:
        """
        A consumer that is of no more use is closed, and another opened.
        """
        world = DownlinkWorld()
        first = world.bus.consumer
        first.fail()
        world.wait(1.5)
        self.assertTrue(first.isClosed)
        self.assertIsNot(world.bus.consumer, first)
        world.bring(message("m1"))
        self.assertEqual(world.statuses("m1"), ["queued"])

    def test_noticeLost(self) -> None:
        """
        A box that was not told of its mail gets it by the sweep.
        """
        world = DownlinkWorld()
        box = listening(world)
        world.gateway.delivery.wake = lambda boxes: None  # type: ignore[method-assign]
        world.bring(message("m1"))
        self.assertEqual(delivered(box), [])
        world.wait(32)
        self.assertEqual([one.message.id for one in delivered(box)], ["m1"])


class CrashTests(SynchronousTestCase):
    """
    The process dies between any two steps; another goes on (DESIGN 11).
    """

    def after(self, store: MemorySessionStore) -> DownlinkWorld:
        """
        Another incarnation on the same session store, some seconds later.
        """
        return DownlinkWorld(store=store, incarnation="test@2")

    def test_afterThePut(self) -> None:
        """
        Put, and the offset not committed: the record comes again and changes nothing.
        """
        first = DownlinkWorld()
        first.bring(message("m1"))
        second = self.after(first.store)  # type: ignore[arg-type]
        second.bring(message("m1"))
        box = listening(second)
        self.assertEqual([one.message.id for one in delivered(box)], ["m1"])
        self.assertEqual(len(second.mail()), 1)

    def test_afterTheTake(self) -> None:
        """
        Noted as sent, and not sent: it is sent by the next owner; one that never waits as well, since its box may have
        it.
        """
        first = DownlinkWorld()
        listening(first)
        first.bring(message("m1"), message("m2", no_queue=True))
        second = self.after(first.store)  # type: ignore[arg-type]
        box = listening(second)
        self.assertEqual([(one.message.id, one.dup) for one in delivered(box)], [("m1", True), ("m2", True)])

    def test_afterTheChoice(self) -> None:
        """
        The final status chosen and not published: another publishes that one, however the message looks by then.
        """
        first = DownlinkWorld()
        box = listening(first)
        first.bring(message("m1", expires_at=NOW_MS + 1000))
        (sent,) = delivered(box)
        first.bus.isOpen = False
        box.send(puback(sent.packetId))
        second = self.after(first.store)  # type: ignore[arg-type]
        second.wait(25)
        self.assertEqual(second.statuses("m1"), ["acked"])
        self.assertEqual(second.mail(), [])
        (event,) = second.bus.events("statuses")
        first.bus.isOpen = True
        first.bus.commit()
        self.assertEqual(first.bus.events("statuses")[-1].id, event.id)

    def test_afterThePublish(self) -> None:
        """
        Published, and the entry not removed: the same is published again, with the same id, and then it goes.
        """
        first = DownlinkWorld()
        box = listening(first)
        first.bring(message("m1"))
        (sent,) = delivered(box)
        first.store.removeMessages = lambda finished: Deferred()  # type: ignore[method-assign]
        box.send(puback(sent.packetId))
        self.assertEqual(first.statuses("m1"), ["queued", "sent", "acked"])
        del first.store.removeMessages
        second = self.after(first.store)  # type: ignore[arg-type]
        second.wait(25)
        self.assertEqual(second.statuses("m1"), ["acked"])
        self.assertEqual(second.bus.events("statuses")[0].id, first.bus.events("statuses")[-1].id)
        self.assertEqual(second.mail(), [])

    def test_afterTheRemoval(self) -> None:
        """
        Removed, and the record comes again: it is known.
        """
        first = DownlinkWorld()
        box = listening(first)
        first.bring(message("m1"))
        box.send(puback(delivered(box)[0].packetId))
        second = self.after(first.store)  # type: ignore[arg-type]
        second.bring(message("m1"))
        self.assertEqual((second.statuses(), second.mail()), ([], []))

    def test_takenForALinkThatIsGone(self) -> None:
        """
        The session store answers after the link has ended: one that never waits is refused, others wait.
        """
        world = DownlinkWorld()
        box = listening(world)
        answers: list[tuple[Deferred[object], object]] = []
        take = world.store.takeMessages

        def slow(*arguments: object) -> Deferred[object]:
            late: Deferred[object] = Deferred()
            take(*arguments).addCallback(lambda result: answers.append((late, result)))  # type: ignore[arg-type]
            return late

        world.store.takeMessages = slow  # type: ignore[method-assign, assignment]
        world.bring(message("m1", no_queue=True), message("m2"))
        box.lose()
        for late, result in answers:
            late.callback(result)
        world.turn()
        self.assertEqual(world.statuses("m1"), ["queued", "refused BOX_AWAY"])
        self.assertEqual([entry.message.id for entry in world.mail()], ["m2"])


class StatusTests(SynchronousTestCase):
    """
    What a status says.
    """

    def test_ids(self) -> None:
        """
        Each status of a message has an id of its own, and so has each attempt.
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message("m1"))
        box.lose()
        listening(world)
        events = world.bus.events("statuses")
        self.assertEqual(world.statuses("m1"), ["queued", "sent", "sent"])
        self.assertEqual(len({event.id for event in events}), 3)
        self.assertEqual([event.message_status.attempts for event in events], [0, 1, 2])
        for event in events:
            self.assertEqual(event.id, event.message_status.id)
            self.assertEqual(event.message_status.queued_at, events[0].event_time)
        ids = [dict(record.headers)["ce_id"] for topic, record in world.bus.committed if topic.endswith("statuses")]
        name = f"dev/{ASSET}/message/m1/".encode()
        self.assertEqual(ids, [name + b"queued", name + b"sent", name + b"sent/2"])
        self.assertEqual(events[0].WhichOneof("body"), "message_status")
        self.assertIsInstance(events[0], cloudnext_pb2.Event)
