"""
Tests for the messages that simulated boxes get: L{binaryserver.tools.box_inbox}, and boxes on a gateway in memory.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

import binaryserver
from binaryserver.errors import MalformedPacket, ProtocolViolation
from binaryserver.mqtt.packets import encodePuback, encodePublish
from binaryserver.proto.md30_pb2 import AckStatus, Message
from binaryserver.tools.box import messageToText, run
from binaryserver.tools.box_endpoint import Access, inTurn
from binaryserver.tools.box_fleet import LEAVE_TIMEOUT, Fleet
from binaryserver.tools.box_inbox import REMEMBERED, AckChoice, Heard, Inbox
from binaryserver.tools.box_plan import BoxPlan, Resend
from binaryserver.tools.box_subscriptions import Subscriptions
from binaryserver.tools.box_sums import MessageSums, Sums
from tests.tools.box_gateway import GatewayLink, MemoryReactor
from tests.tools.test_box_fleet import FleetCase

NOW_MS = 1_790_000_000_000
STAY = 60.0
reactor: Any = globalReactor


def message(id_: str, payload: bytes = b"x", channel: str = "c", wantAck: bool = False, **fields: Any) -> Message:
    """
    One from the cloud.
    """
    return Message(id=id_, channel=channel, payload=payload, want_ack=wantAck, **fields)


class InboxTests(SynchronousTestCase):
    """
    One box's inbox.
    """

    def setUp(self) -> None:
        """
        Its application says OK.
        """
        self.sums = MessageSums()
        self.inbox = Inbox(AckChoice.OK, Random(1), self.sums)

    def receive(self, one: Message, dup: bool = False) -> Heard:
        """
        It comes.
        """
        return self.inbox.receive(one.SerializeToString(), dup, NOW_MS)

    def test_repeats(self) -> None:
        """
        The same id again is a repeat, with DUP or without; each is counted for what it is.
        """
        news = [
            self.receive(message(id_), dup).isNew for id_, dup in (("a", False), ("b", True), ("a", True), ("b", False))
        ]
        self.assertEqual(news, [True, True, False, False])
        self.assertEqual(self.sums, MessageSums(received=2, repeats=2, redelivered=2))

    def test_remembered(self) -> None:
        """
        So many ids are remembered; one that comes again counts as young.
        """
        for number in range(REMEMBERED):
            self.receive(message(str(number)))
        self.receive(message("0"))
        self.receive(message("new"))
        self.assertFalse(self.receive(message("0")).isNew)
        self.assertFalse(self.receive(message("2")).isNew)
        self.assertTrue(self.receive(message("1")).isNew)

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 2)), max_size=60))
    def test_order(self, sent: list[tuple[int, int, int]]) -> None:
        """
        Of numbers on one channel each is to be larger than all before it; repeats are judged once.
        """
        self.setUp()
        known: set[str] = set()
        highest: dict[int, int] = {}
        disordered = 0
        for id_, number, channel in sent:
            if str(id_) not in known:
                known.add(str(id_))
                disordered += number <= highest.get(channel, -1)
                highest[channel] = max(number, highest.get(channel, -1))
            self.receive(message(str(id_), b"%d" % number, str(channel)))
        self.assertEqual(self.sums.disordered, disordered)
        self.assertEqual((self.sums.received, self.sums.repeats), (len(known), len(sent) - len(known)))

    def test_noNumbers(self) -> None:
        """
        Other payloads have no order.
        """
        for id_, payload in enumerate((b"5", b"", b"-1", b"4.0", b" 3", b"x", "٣".encode())):
            self.receive(message(str(id_), payload))
        self.assertEqual((self.sums.received, self.sums.disordered), (7, 0))

    def test_expired(self) -> None:
        """
        What comes after its time is counted; one without a time never is.
        """
        for id_, expiresAt in enumerate((0, NOW_MS - 1, NOW_MS, NOW_MS + 1)):
            self.receive(message(str(id_), expires_at=expiresAt))
        self.assertEqual(self.sums.expired, 1)

    def test_answer(self) -> None:
        """
        An answer names the message, its channel, and the status; that to a repeat has the same id.
        """
        answer = self.receive(message("m-1", wantAck=True)).answer
        assert answer is not None
        sent = Message.FromString(answer.payload)
        self.assertRegex(sent.id, "^[0-9a-f]{16}$")
        self.assertEqual(
            (answer.ackOf, sent),
            (
                "m-1",
                Message(id=sent.id, channel="c", recorded_at=NOW_MS, ack_of="m-1", ack_status=AckStatus.ACK_STATUS_OK),
            ),
        )
        self.assertEqual(self.receive(message("m-1", wantAck=True)).answer, answer)
        self.assertNotEqual(self.receive(message("m-2", wantAck=True)).answer, answer)
        self.assertIs(self.receive(message("m-3")).answer, None)

    def test_choices(self) -> None:
        """
        The application answers what it is told to, or nothing.
        """
        for choice, status in (
            (AckChoice.NO_LISTENER, AckStatus.ACK_STATUS_NO_LISTENER),
            (AckChoice.NOT_UNDERSTOOD, AckStatus.ACK_STATUS_NOT_UNDERSTOOD),
            (AckChoice.NONE, None),
        ):
            self.inbox = Inbox(choice, Random(1), self.sums)
            answer = self.receive(message("m", wantAck=True)).answer
            self.assertEqual(answer and Message.FromString(answer.payload).ack_status, status)

    @given(st.binary(max_size=40))
    def test_anything(self, payload: bytes) -> None:
        """
        What is no message is a broken rule of the gateway's, and nothing else.
        """
        try:
            heard = self.inbox.receive(payload, False, NOW_MS)
        except MalformedPacket:
            pass
        else:
            self.assertEqual(heard.at, NOW_MS)

    def test_text(self) -> None:
        """
        For a person a payload is text if it is some, else base64; nothing reaches the terminal that it would obey.
        """
        for payload, shown in (
            (b"open door", "open door"),
            (b"", ""),
            ("é".encode(), "é"),
            (b"\xff", "base64:/w=="),
            (b"a\x1b[2J", "base64:YRtbMko="),
            (b"a\nb", "base64:YQpi"),
        ):
            heard = Heard(message("m-1", payload), NOW_MS, True, None)
            self.assertEqual(messageToText("box-1", heard), f"box-1 message m-1 c: {shown}")
        heard = Heard(message("m\x1b[2J"), NOW_MS, True, None)
        self.assertEqual(messageToText("box-1", heard), "box-1 message m�[2J c: x")


class MessageCase(FleetCase):
    """
    A gateway, and boxes that stay.
    """

    def setUp(self) -> None:
        """
        What the boxes hear is kept.
        """
        super().setUp()
        self.heard: list[tuple[str, str]] = []

    def staying(self, boxes: int = 1, tracks: int = 0, **plan: Any) -> tuple[Fleet, Deferred[Sums]]:
        """
        Boxes that stay for a minute, with their links.
        """
        plan.setdefault("stay", STAY)
        fleet = self.fleet(
            BoxPlan(**plan),
            boxes,
            tracks,
            messageHeard=lambda asset, heard: self.heard.append((asset, heard.message.id)),
        )
        done = self.start(fleet)
        self.reactor.flush()
        return fleet, done

    def send(self, *messages: Message, asset: str = "box-1") -> None:
        """
        The cloud sends, and bytes are carried.
        """
        self.gateway.send(asset, *messages)
        self.reactor.flush()

    @property
    def link(self) -> GatewayLink:
        """
        The only one.
        """
        [link] = self.gateway.links
        return link


class ListeningTests(MessageCase):
    """
    Messages on a good network.
    """

    def test_received(self) -> None:
        """
        Each box gets its messages in order, once each, and acks them; those that want no answer get none.
        """
        fleet, done = self.staying(boxes=2)
        for number in range(1, 51):
            self.send(message(f"a-{number}", b"%d" % number))
        self.send(message("b-1"), asset="box-2")
        self.assertEqual(self.heard, [("box-1", f"a-{number}") for number in range(1, 51)] + [("box-2", "b-1")])
        self.assertEqual(fleet.sums.messages, MessageSums(received=51))
        self.assertEqual(self.gateway.mailboxes, {"box-1": [], "box-2": []})
        self.assertEqual(self.gateway.answers, [])
        self.assertNoResult(done)

    def test_answered(self) -> None:
        """
        Those that want an answer get one each, on C{m} at QoS 1, without a stream, and within the window.
        """
        fleet, _ = self.staying(inflight=4)
        self.gateway.holding = True
        self.send(*[message(f"a-{number}", wantAck=True) for number in range(10)])
        self.assertEqual(len(self.gateway.answers), 4)
        self.gateway.release()
        self.reactor.flush()
        self.assertEqual(
            [answer.ack_of for *_, answer in self.gateway.answers], [f"a-{number}" for number in range(10)]
        )
        for asset, packetId, dup, answer in self.gateway.answers:
            self.assertEqual((asset, packetId > 0, dup, answer.stream, answer.index), ("box-1", True, False, 0, 0))
            self.assertEqual((answer.ack_status, answer.channel), (AckStatus.ACK_STATUS_OK, "c"))
        self.assertEqual(len({answer.id for *_, answer in self.gateway.answers}), 10)
        self.assertEqual(fleet.sums.messages, MessageSums(received=10, acks=10, acksConfirmed=10))
        self.assertEqual((fleet.sums.acksOutOfOrder, fleet.sums.unexpectedAcks), (0, 0))

    def test_repeatAnswered(self) -> None:
        """
        A repeat is answered again, though its message is dropped; not while the first answer is on its way.
        """
        fleet, _ = self.staying()
        self.send(message("a", wantAck=True))
        self.send(message("a", wantAck=True))
        self.gateway.holding = True
        self.send(message("a", wantAck=True))
        self.send(message("a", wantAck=True))
        self.assertEqual(self.heard, [("box-1", "a")])
        self.assertEqual(len(self.gateway.answers), 3)
        self.gateway.release()
        self.reactor.flush()
        self.assertEqual(fleet.sums.messages, MessageSums(received=1, repeats=3, acks=3, acksConfirmed=3))
        self.assertEqual(len({answer.id for *_, answer in self.gateway.answers}), 1)

    def test_beside(self) -> None:
        """
        Tracks and answers go beside each other at any QoS of tracks; the acks of both are told apart.
        """
        for qos in (0, 1, 2):
            self.setUp()
            _, done = self.staying(tracks=60, qos=qos, rate=10.0, resendAfter=5.0, stay=8.0)
            for number in range(30):
                self.send(message(f"a-{number}", b"%d" % number, wantAck=True))
                self.reactor.run(0.2)
            self.reactor.run(5)
            sums = self.successResultOf(done)
            self.assertAllTaken(1, 60)
            self.assertEqual((sums.acked, sums.resent, sums.peerErrors, sums.unexpectedAcks), (60, 0, 0, 0), qos)
            self.assertEqual(sums.messages, MessageSums(received=30, acks=30, acksConfirmed=30), qos)
            self.assertEqual(len(self.gateway.answers), 30)

    def test_leavingWaits(self) -> None:
        """
        A box does not leave before its answers are acked, and sends nothing behind its DISCONNECT.
        """
        _, done = self.staying(stay=5.0)
        self.gateway.messageAcks = False
        self.send(message("a", wantAck=True))
        self.reactor.run(6)
        self.assertNoResult(done)
        self.link.connection.puback([self.gateway.answers[0][1]])
        self.link.flush()
        self.reactor.flush()
        self.assertEqual(self.successResultOf(done).messages.acksConfirmed, 1)
        self.assertEqual((self.gateway.clean, self.gateway.links), (1, []))

    def test_noMessages(self) -> None:
        """
        Without messages a box subscribes to its index alone; without that, to nothing.
        """
        for indexFromGateway, subscribes in ((True, [("i",)]), (False, [])):
            self.setUp()
            fleet, _ = self.staying(ack=None, indexFromGateway=indexFromGateway)
            self.send(message("a"))
            self.assertEqual(self.gateway.subscribes, subscribes)
            self.assertEqual(fleet.sums.messages, MessageSums())

    def test_withoutIndex(self) -> None:
        """
        A box that does not read its index listens all the same.
        """
        fleet, _ = self.staying(indexFromGateway=False)
        self.send(message("a"))
        self.assertEqual((self.gateway.subscribes, fleet.sums.messages.received), ([("d",)], 1))

    def test_longTopic(self) -> None:
        """
        A message under the long name of the topic is one as well, at QoS 0 too.
        """
        fleet, _ = self.staying()
        payload = message("a").SerializeToString()
        self.link.send(encodePublish("boxes/box-1/downlink", payload, 0))
        self.link.send(encodePublish("boxes/box-2/downlink", payload, 0))
        self.reactor.flush()
        self.assertEqual(fleet.sums.messages.received, 1)

    def test_refused(self) -> None:
        """
        A gateway that will not let a box listen ends it.
        """
        self.gateway.refuses.add("d")
        _, done = self.staying()
        sums = self.successResultOf(done)
        self.assertEqual((sums.refused, sums.connects), (1, 1))

    def test_badSuback(self) -> None:
        """
        A SUBACK that leaves out a filter breaks a rule.
        """
        subscriptions = Subscriptions(True, True)
        self.assertEqual(subscriptions.wanted(True), [("i", 0), ("d", 1)])
        for codes in ((), (0,), (0, 1, 1)):
            self.assertRaises(ProtocolViolation, subscriptions.answered, codes)
        self.assertEqual(subscriptions.wanted(True), [("i", 0), ("d", 1)])
        self.assertEqual(subscriptions.answered((0, 1)), "")
        self.assertEqual(subscriptions.wanted(True), [("i", 0)])

    def test_malformed(self) -> None:
        """
        What is no message is the gateway's fault, and ends the link.
        """
        fleet, _ = self.staying()
        self.link.send(encodePublish("d", b"\xff\xff", 1, 1))
        self.reactor.flush()
        self.assertEqual((fleet.sums.peerErrors, fleet.sums.lostLinks), (1, 1))

    def test_strayPuback(self) -> None:
        """
        A PUBACK where neither tracks nor answers ask for one breaks a rule.
        """
        for qos in (0, 2):
            self.setUp()
            fleet, _ = self.staying(qos=qos, resendAfter=5.0)
            self.link.send(encodePuback(1))
            self.reactor.flush()
            self.assertEqual(fleet.sums.peerErrors, 1)


class BadNetworkTests(MessageCase):
    """
    Messages over links that break.
    """

    def test_subscribesOnce(self) -> None:
        """
        A session that is kept keeps the subscription, and messages come before anything is subscribed; a clean one is
        subscribed anew, and so is one that the gateway has lost.
        """
        for resend, lose, again in (
            (Resend.SAME, False, ("i",)),
            (Resend.SAME, True, ("i", "d")),
            (Resend.NEW, False, ("i", "d")),
        ):
            self.setUp()
            fleet, _ = self.staying(resend=resend)
            self.link.drop()
            self.reactor.flush()
            if lose:
                self.gateway.sessions.clear()
                self.gateway.listening.clear()
            self.send(message("a"))
            self.reactor.run(3)
            self.assertEqual(self.gateway.subscribes, [("i", "d"), again])
            self.assertEqual((fleet.sums.messages.received, self.gateway.mailboxes["box-1"]), (1, []))

    def test_cutOnMessage(self) -> None:
        """
        Links that are cut before a message is acked bring it again with DUP; it is dropped, and answered once more
        unless its answer has not arrived; every one ends up acked, and in order.
        """
        _, done = self.staying(boxes=3, cutOnMessage=0.3, reconnectDelay=0.2)
        total = 40
        for number in range(total):
            for box in (1, 2, 3):
                self.send(message(f"{box}-{number}", b"%d" % number, wantAck=True), asset=f"box-{box}")
            self.reactor.run(0.3)
        self.reactor.run(STAY)
        sums = self.successResultOf(done)
        seen = sums.messages
        self.assertEqual((seen.received, seen.disordered, seen.expired), (3 * total, 0, 0))
        self.assertGreater(sums.cuts, 10)
        self.assertEqual(sums.lostLinks, 0)
        self.assertEqual(seen.repeats, seen.redelivered)
        self.assertGreaterEqual(seen.repeats, sums.cuts)
        self.assertEqual({answer.ack_of for *_, answer in self.gateway.answers}, {id_ for _, id_ in self.heard})
        self.assertEqual(seen.acksConfirmed, seen.acks)
        self.assertEqual(len(self.gateway.answers), seen.acks + seen.acksResent)
        self.assertEqual(self.gateway.mailboxes, {f"box-{box}": [] for box in (1, 2, 3)})

    def test_answerResent(self) -> None:
        """
        An answer that has no ack when the link is lost is sent again with DUP and the same packet id, at any QoS of
        tracks, with the tracks in their old order.
        """
        for qos in (0, 1):
            self.setUp()
            fleet, _ = self.staying(qos=qos, resendAfter=50.0)
            self.gateway.holding = True
            self.send(message("a", wantAck=True))
            self.link.held.clear()
            self.link.drop()
            self.reactor.run(3)
            self.gateway.release()
            self.reactor.flush()
            first, second = self.gateway.answers
            self.assertEqual((first[2], second), (False, (*first[:2], True, first[3])))
            self.assertEqual(fleet.sums.messages, MessageSums(received=1, acks=1, acksResent=1, acksConfirmed=1))
            self.assertEqual(fleet.sums.peerErrors, 0)

    def test_answerSentAnew(self) -> None:
        """
        In a new session it is another PUBLISH of the same answer.
        """
        fleet, _ = self.staying(resend=Resend.NEW)
        self.gateway.holding = True
        self.send(message("a", wantAck=True))
        self.link.held.clear()
        self.link.drop()
        self.reactor.run(3)
        self.gateway.release()
        self.reactor.flush()
        (*_, firstDup, first), (*_, secondDup, second) = self.gateway.answers
        self.assertEqual((firstDup, secondDup, first), (False, False, second))
        self.assertEqual(fleet.sums.messages, MessageSums(received=1, acks=2, acksConfirmed=1))

    def test_lostAcks(self) -> None:
        """
        Acks of answers get lost like all others, and the answers are sent again.
        """
        fleet, _ = self.staying(loseAcks=0.5, resendAfter=1.0)
        for number in range(20):
            self.send(message(str(number), wantAck=True))
        self.reactor.run(30)
        seen = fleet.sums.messages
        self.assertGreater(fleet.sums.acksIgnored, 3)
        self.assertEqual((seen.received, seen.acks, seen.acksConfirmed), (20, 20, 20))
        self.assertEqual(seen.acksResent, fleet.sums.acksIgnored)
        self.assertEqual((fleet.sums.resent, fleet.sums.unexpectedAcks), (0, 0))

    def test_tracksAtQos0(self) -> None:
        """
        Tracks that are lost at QoS 0 go back into the store; the answer in flight beside them stays what it is.
        """
        _, done = self.staying(qos=0, resendAfter=5.0, tracks=3, stay=20.0)
        self.reactor.run(1)
        self.assertAllTaken(1, 3)
        self.gateway.messageAcks = False
        self.send(message("a", wantAck=True))
        self.reactor.run(6)
        self.assertEqual([dup for _, _, dup, _ in self.gateway.answers], [False, True])
        self.assertEqual(len({packetId for _, packetId, _, _ in self.gateway.answers}), 1)
        self.link.connection.puback([self.gateway.answers[0][1]])
        self.link.flush()
        self.reactor.run(20)
        self.assertEqual(self.successResultOf(done).messages.acksConfirmed, 1)


class StayTests(MessageCase):
    """
    How long boxes stay, and where.
    """

    def test_stay(self) -> None:
        """
        Boxes stay until their time, tracks acked or none there, and then leave in good order.
        """
        for tracks in (0, 5):
            self.setUp()
            _, done = self.staying(boxes=2, tracks=tracks)
            self.reactor.run(STAY - 0.2)
            self.assertNoResult(done)
            self.reactor.run(0.4)
            self.assertTrue(self.successResultOf(done).complete)
            self.assertEqual((self.gateway.clean, self.gateway.links), (2, []))

    def test_longerThanStay(self) -> None:
        """
        Tracks that take longer are brought all the same.
        """
        _, done = self.staying(tracks=20, rate=2.0, stay=3.0)
        self.reactor.run(5)
        self.assertNoResult(done)
        self.reactor.run(6)
        self.assertTrue(self.successResultOf(done).complete)

    def test_awayAtTheEnd(self) -> None:
        """
        A box that has no link when its time is over need not connect once more.
        """
        fleet, done = self.staying(reconnectDelay=30.0)
        self.reactor.run(STAY - 10)
        self.link.drop()
        self.reactor.flush()
        self.reactor.refusing = True
        self.reactor.run(9)
        self.assertNoResult(done)
        self.reactor.run(1.5)
        self.assertTrue(self.successResultOf(done).complete)
        self.assertEqual(fleet.sums.connects, 1)

    def test_leave(self) -> None:
        """
        Boxes that are told to leave do so in good order, once their answers are acked.
        """
        fleet, done = self.staying(boxes=2, stay=float("inf"))
        self.gateway.holding = True
        self.send(message("a", wantAck=True))
        left = fleet.leave()
        assert left is not None
        self.reactor.run(1)
        self.assertEqual((self.gateway.clean, len(self.gateway.links)), (1, 1))
        self.assertNoResult(left)
        self.gateway.release()
        self.reactor.flush()
        self.assertTrue(self.successResultOf(done).complete)
        self.successResultOf(left)
        self.assertEqual((self.gateway.clean, self.gateway.links), (2, []))
        self.assertIs(fleet.leave(), None)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_leaveInTime(self) -> None:
        """
        Those that cannot are stopped after a while.
        """
        fleet, done = self.staying(stay=float("inf"))
        self.gateway.messageAcks = False
        self.send(message("a", wantAck=True))
        fleet.leave()
        self.reactor.run(LEAVE_TIMEOUT - 0.1)
        self.assertNoResult(done)
        self.reactor.run(0.2)
        self.assertEqual(self.successResultOf(done).messages, MessageSums(received=1, acks=1))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_inTurn(self) -> None:
        """
        Boxes begin spread over the gateways, and each goes to another one with every connect.
        """
        endpoints = [TCP4ClientEndpoint(self.reactor, "127.0.0.1", port) for port in (1, 2, 3)]
        accesses = [Access(endpoint) for endpoint in endpoints]
        accessFor = inTurn([lambda asset, access=access: access for access in accesses])  # type: ignore[misc]
        order = [accesses.index(accessFor(asset)) + 1 for asset in "aaaabcbcd"]
        self.assertEqual(order, [1, 2, 3, 1, 2, 3, 3, 1, 1])


class RunTests(SynchronousTestCase):
    """
    The program, but for its process.
    """

    def setUp(self) -> None:
        """
        A gateway wherever it connects to.
        """
        self.reactor = MemoryReactor()
        self.gateway = self.reactor.gateway
        self.out, self.err = StringIO(), StringIO()

    def start(self, text: str) -> Any:
        """
        Run a command line.
        """
        done = run(self.reactor, text.split(), self.out, self.err)
        self.reactor.run(1)
        return done

    def stop(self) -> None:
        """
        As SIGTERM does.
        """
        for trigger in self.reactor.triggers:
            trigger()
        self.reactor.run(1)

    def test_json(self) -> None:
        """
        Messages are one JSON object a line, as they come; the last one has the sums.
        """
        done = self.start("--first-asset b1 --tracks 0 --stay --json")
        self.gateway.send(
            "b1", message("m-1", b"\xff", wantAck=True, expires_at=5), message("m-1"), message("m-2", b"hi")
        )
        self.reactor.run(0.1)
        lines = [json.loads(line) for line in self.out.getvalue().splitlines()]
        self.assertEqual([abs(line.pop("received_at") / 1000 - time.time()) < 30 for line in lines], [True] * 2)
        self.assertEqual(
            lines,
            [
                {"asset": "b1", "id": "m-1", "channel": "c", "payload": "/w==", "want_ack": True, "expires_at": 5},
                {"asset": "b1", "id": "m-2", "channel": "c", "payload": "aGk=", "want_ack": False, "expires_at": 0},
            ],
        )
        self.assertNoResult(done)
        self.stop()
        self.assertIs(self.successResultOf(done), None)
        sums = json.loads(self.out.getvalue().splitlines()[-1])
        self.assertEqual(
            sums["messages"],
            {
                "received": 2,
                "repeats": 1,
                "redelivered": 0,
                "disordered": 0,
                "expired": 1,
                "acks_sent": 1,
                "acks_resent": 0,
                "acks_confirmed": 1,
            },
        )
        self.assertEqual((self.err.getvalue(), self.reactor.getDelayedCalls()), ("", []))

    def test_text(self) -> None:
        """
        A person reads messages and sums in words.
        """
        done = self.start("--first-asset b1 --tracks 0 --stay 10 --ack no-listener")
        self.gateway.send("b1", message("m-1", b"7", wantAck=True), message("m-2", b"6"), message("m-1", b"7"))
        self.reactor.run(10)
        self.assertIs(self.successResultOf(done), None)
        self.assertEqual(self.out.getvalue().splitlines()[:2], ["b1 message m-1 c: 7", "b1 message m-2 c: 6"])
        self.assertIn(
            "2 messages received, 1 repeats dropped, 1 out of order, 1 application acks sent, 1 of them acked\n",
            self.out.getvalue(),
        )
        [(*_, answer)] = self.gateway.answers
        self.assertEqual(answer.ack_status, AckStatus.ACK_STATUS_NO_LISTENER)

    def test_quiet(self) -> None:
        """
        With C{--quiet} there are the sums alone.
        """
        self.start("--first-asset b1 --tracks 0 --stay 10 --json --quiet")
        self.gateway.send("b1", message("m-1"), message("m-2"))
        self.reactor.run(10)
        [line] = self.out.getvalue().splitlines()
        self.assertEqual(json.loads(line)["messages"]["received"], 2)

    def test_gateways(self) -> None:
        """
        With several gateways, connects go to each of them.
        """
        self.start(
            "--boxes 2 --ramp 0 --tracks 0 --stay --reconnect-delay 0.1 "
            "--connect tcp:127.0.0.1:1 --connect tcp:127.0.0.1:2"
        )
        self.assertEqual(self.reactor.ports, [1, 2])
        for link in list(self.gateway.links):
            link.drop()
        self.reactor.run(1)
        self.assertEqual(sorted(self.reactor.ports), [1, 1, 2, 2])
        self.stop()

    def test_badOptions(self) -> None:
        """
        A bad command line is told in one line that names the option.
        """
        for text, named in (
            ("--ack maybe", "--ack"),
            ("--no-messages --ack none", "--no-messages"),
            ("--no-messages --cut-on-message 0.1", "--no-messages"),
            ("--cut-on-message 1.1", "--cut-on-message"),
            ("--stay -1", "--stay"),
            ("--stay soon", "--stay"),
            ("--connect tcp:127.0.0.1:1 --connect nonsense", "--connect: 'nonsense'"),
        ):
            self.setUp()
            error = self.assertRaises(SystemExit, self.start, text)
            self.assertEqual(error.code, 1)
            self.assertIn(named, self.err.getvalue())
            self.assertEqual(self.err.getvalue().count("\n"), 1)


class _Boxes(ProcessProtocol):
    """
    One process of the program.

    @ivar ended: fires with its exit status, negative for a signal
    """

    transport: Any

    def __init__(self, *arguments: str) -> None:
        self.output = b""
        self.errors = b""
        self.ended: Deferred[int] = Deferred()
        environment = {**os.environ, "PYTHONPATH": str(Path(binaryserver.__file__).parents[1])}
        code = "from binaryserver.tools.box import main; main()"
        reactor.spawnProcess(self, sys.executable, [sys.executable, "-c", code, *arguments], environment)

    def outReceived(self, data: bytes) -> None:
        """
        See L{ProcessProtocol.outReceived}.
        """
        self.output += data

    def errReceived(self, data: bytes) -> None:
        """
        See L{ProcessProtocol.errReceived}.
        """
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        """
        See L{ProcessProtocol.processEnded}.
        """
        value: Any = reason.value
        self.ended.callback(value.exitCode if value.signal is None else -value.signal)


class ProcessTests(TestCase):
    """
    The program as a process, on a real port.
    """

    timeout = 60

    def setUp(self) -> None:
        """
        A gateway in memory behind a port.
        """
        self.gateway = MemoryReactor().gateway
        self.gateway.clock = reactor
        factory = Factory.forProtocol(lambda: GatewayLink(self.gateway))
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.connect = f"tcp:127.0.0.1:{port.getHost().port}"

    async def test_signals(self) -> None:
        """
        SIGTERM and SIGINT end boxes that stay in good order: with their sums, and status 0.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self.gateway.clean = 0
            boxes = _Boxes("--connect", self.connect, "--boxes", "2", "--tracks", "1", "--stay", "--json")
            while len(self.gateway.listening) < 2 or len(self.gateway.links) < 2 or not self.gateway.tracks:
                await deferLater(reactor, 0.02)
            asset = self.gateway.links[0].asset
            self.gateway.send(asset, message(f"m-{number}", wantAck=True))
            while not boxes.output:
                await deferLater(reactor, 0.02)
            boxes.transport.signalProcess(number)
            self.assertEqual((await boxes.ended, boxes.errors), (0, b""))
            heard, sums = map(json.loads, boxes.output.splitlines())
            self.assertEqual((heard["asset"], heard["id"]), (asset, f"m-{number}"))
            self.assertEqual(
                [sums["messages"][name] for name in ("received", "acks_sent", "acks_confirmed")], [1, 1, 1]
            )
            self.assertEqual((sums["acked"], self.gateway.clean), (2, 2))

    async def test_brokenPipe(self) -> None:
        """
        When whoever reads the messages has seen enough, it ends without a complaint.
        """
        boxes = _Boxes("--connect", self.connect, "--tracks", "0", "--stay")
        while not self.gateway.listening:
            await deferLater(reactor, 0.02)
        boxes.transport.closeStdout()
        self.gateway.send(self.gateway.links[0].asset, message("m-1"))
        self.assertEqual((await boxes.ended, boxes.errors), (0, b""))
