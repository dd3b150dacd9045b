"""
MQTT's normative statements that bind the gateway as a whole, tested on a whole gateway; and the table in
C{docs/md30.md} of where each one is kept.
"""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.mqtt import packets
from binaryserver.mqtt.events import Puback, Publish
from binaryserver.mqtt.framing import Framing
from binaryserver.mqtt.packets import Connack, Packet, Pubcomp, Pubrec, Suback, Unsuback
from binaryserver.mqtt.parsers import FROM_SERVER
from tests.harness import ASSET, Box, World, batch

ROOT = Path(__file__).parents[2]


def answers(box: Box) -> list[Packet]:
    """
    What the gateway has sent since last asked.
    """
    data = box.transport.value()
    box.transport.clear()
    return [packet for packet in Framing(FROM_SERVER, 1 << 20).feed(data)]  # type: ignore[misc]


def connecting(world: World, clientId: str = ASSET, clean: bool = True) -> Box:
    """
    A box that has sent its CONNECT.
    """
    box = Box(world)
    box.send(packets.encodeConnect(clientId, clean))
    return box


def indexNotices(box: Box, topicFilter: str) -> list[Publish]:
    """
    What comes on an index topic when that is asked for.
    """
    answers(box)
    box.send(packets.encodePublish(topicFilter, b""))
    return [packet for packet in answers(box) if isinstance(packet, Publish)]


class SessionTests(SynchronousTestCase):
    """
    What is kept between links.
    """

    def test_kept(self) -> None:
        """
        Without the clean flag a session goes on where it was [MQTT-3.1.2-4], [MQTT-3.1.4-3], for as long as it is kept
        [MQTT-4.1.0-1], [MQTT-4.1.0-2]; session present says whether there was one [MQTT-3.2.2-2], [MQTT-3.2.2-3].
        """
        world = World()
        box = connecting(world, clean=False)
        self.assertEqual(answers(box), [Connack(False, 0)])
        box.send(packets.encodePublish("t", batch(1), 2, 7))
        self.assertEqual(answers(box), [Pubrec(7)])
        box.send(packets.DISCONNECT)
        box.lose()
        box = connecting(world, clean=False)
        self.assertEqual(answers(box), [Connack(True, 0)])
        box.send(packets.encodePublish("t", batch(1), 2, 7, True) + packets.encodePubrel(7))
        self.assertEqual(answers(box), [Pubrec(7), Pubcomp(7)])
        self.assertEqual(len(world.bus.events("tracks")), 1)

    def test_clean(self) -> None:
        """
        The clean flag forgets what was kept and keeps nothing [MQTT-3.1.2-6]; session present is 0 [MQTT-3.2.2-1].
        """
        world = World()
        box = connecting(world, clean=False)
        box.send(packets.encodeSubscribe(1, [("i", 0)]) + packets.DISCONNECT)
        box.lose()
        for clean in (True, False):
            box = connecting(world, clean=clean)
            self.assertEqual(answers(box), [Connack(False, 0)])
            box.send(packets.DISCONNECT)
            box.lose()

    def test_byClientId(self) -> None:
        """
        Sessions are told apart by the client id [MQTT-3.1.3-2].
        """
        world = World()
        for clientId in ("a", "b"):
            self.assertEqual(answers(connecting(world, clientId, False)), [Connack(False, 0)])
        self.assertEqual(answers(connecting(world, "b", False)), [Connack(True, 0)])

    def test_takeover(self) -> None:
        """
        A second link of a client ends the first [MQTT-3.1.4-2].
        """
        world = World()
        first = world.box()
        second = world.box()
        self.assertTrue(first.transport.disconnected)
        self.assertFalse(second.transport.disconnected)

    def test_clientIds(self) -> None:
        """
        The client ids that MQTT names are let in [MQTT-3.1.3-5]; what is no asset gets return code 2 and a close
        [MQTT-3.1.3-9], [MQTT-3.2.2-5], the empty one too, for which the gateway makes up no id [MQTT-3.1.3-6].
        """
        world = World()
        for clientId in ("0", "abcdefghijklmnopqrstuvw", "XYZABCDEFGHIJKLMNOPQRST", "0123456789"):
            self.assertEqual(answers(connecting(world, clientId)), [Connack(False, 0)])
        for clientId in ("", "a/b", "\u00e9", "x" * 65):
            box = connecting(world, clientId)
            self.assertEqual(answers(box), [Connack(False, 2)])
            self.assertTrue(box.transport.disconnecting)

    def test_nothingAfterARefusal(self) -> None:
        """
        What stands behind a refused CONNECT is not processed [MQTT-3.1.4-5].
        """
        world = World()
        box = Box(world)
        box.send(packets.encodeConnect("a/b") + packets.encodePublish("t", batch(1), 1, 1))
        self.assertEqual(answers(box), [Connack(False, 2)])
        self.assertEqual(world.bus.committed, [])


class WillTests(SynchronousTestCase):
    """
    The last will, which is the presence reason that a box leaves behind.
    """

    def reasons(self, world: World) -> list[tuple[str, bool]]:
        """
        Reasons of the disconnects, and whether they are the box's own.
        """
        presences = [event.presence for event in world.bus.events("presences")]
        return [(one.reason, one.reason_from_box) for one in presences if one.reason]

    def test_published(self) -> None:
        """
        It is published when the link ends without a DISCONNECT [MQTT-3.1.2-8], whichever way: lost, late, or for a
        broken rule; once, and as no retained message [MQTT-3.1.2-16].
        """
        for end in ("lost", "late", "broken"):
            world = World()
            box = world.box(will=("w", b"PPP_LOST"), keepAlive=10)
            if end == "late":
                world.wait(30)
            elif end == "broken":
                box.send(b"\xff")
            box.lose()
            self.assertEqual(self.reasons(world), [("PPP_LOST", True)], end)

    def test_void(self) -> None:
        """
        A DISCONNECT makes it void [MQTT-3.1.2-10], [MQTT-3.14.4-3].
        """
        world = World()
        box = world.box(will=("w", b"PPP_LOST"))
        box.send(packets.DISCONNECT)
        box.lose()
        self.assertEqual(self.reasons(world), [("CLIENT_DISCONNECT", False)])

    def test_none(self) -> None:
        """
        Without one none is published [MQTT-3.1.2-12].
        """
        world = World()
        world.box().lose()
        self.assertEqual(self.reasons(world), [("SOCKET_CLOSED", False)])


class PublishTests(SynchronousTestCase):
    """
    PUBLISH, either way.
    """

    def test_answers(self) -> None:
        """
        QoS 0 is not answered, QoS 1 with PUBACK [MQTT-4.3.2-2], QoS 2 with PUBREC, and its PUBREL with PUBCOMP
        [MQTT-3.3.4-1].
        """
        world = World()
        box = world.box()
        for qos, expected in ((0, []), (1, [Puback(1)]), (2, [Pubrec(1)])):
            box.send(packets.encodePublish("t", batch(qos + 1), qos, 1 if qos else 0))
            self.assertEqual(answers(box), expected)
        box.send(packets.encodePubrel(1))
        self.assertEqual(answers(box), [Pubcomp(1)])

    def test_order(self) -> None:
        """
        PUBACKs [MQTT-4.6.0-2] and PUBRECs [MQTT-4.6.0-3] come in the order of the PUBLISHes, and so do the events on
        the bus, for every topic [MQTT-4.6.0-5].
        """
        world = World()
        box = world.box()
        world.bus.isOpen = False
        for index, (qos, packetId) in enumerate(((1, 9), (2, 4), (1, 2), (2, 3))):
            box.send(packets.encodePublish("t", batch(index + 1), qos, packetId))
        while world.bus.waiting:
            world.bus.commit()
        world.turn()
        self.assertEqual(answers(box), [Puback(9), Pubrec(4), Puback(2), Pubrec(3)])
        self.assertEqual([event.index for event in world.bus.events("tracks")], [1, 2, 3, 4])

    def test_noExtensions(self) -> None:
        """
        A client that knows MQTT and nothing more gets everything [MQTT-7.0.0-2]: long topics, JSON, the clean session
        that clients have by default, no subscription needed.
        """
        world = World()
        box = connecting(world)
        payload = b'{"tracks": [{"recorded_at": 1790000000000}]}'
        box.send(packets.encodePublish(f"boxes/{ASSET}/tracks/json", payload, 1, 1))
        self.assertEqual(answers(box), [Connack(False, 0), Puback(1)])
        box.send(packets.DISCONNECT)
        box.lose()
        self.assertEqual(len(world.bus.events("tracks")), 1)

    def test_notAuthorized(self) -> None:
        """
        A PUBLISH outside the box's own topics closes the link and is not acked [MQTT-3.3.5-2].
        """
        for topic in ("boxes/other/tracks", "x", "d", "$SYS/t"):
            world = World()
            box = world.box()
            box.send(packets.encodePublish(topic, batch(1), 1, 1))
            self.assertEqual(answers(box), [])
            self.assertTrue(box.transport.disconnecting)

    def test_transientError(self) -> None:
        """
        When the bus fails to take a PUBLISH, its link is closed and no other is [MQTT-4.8.0-2].
        """
        world = World()
        box, other = world.box(), world.box("other")
        world.bus.isOpen = False
        box.send(packets.encodePublish("t", batch(1), 1, 1))
        world.bus.fail()
        world.turn()
        self.assertEqual(answers(box), [])
        self.assertTrue(box.transport.disconnecting)
        self.assertFalse(other.transport.disconnecting)

    def test_retain(self) -> None:
        """
        The RETAIN flag of an uplink PUBLISH changes nothing: it is taken and acked, and nobody gets it later.
        """
        world = World()
        box = world.box()
        box.send(packets.encodePublish("t", batch(1), 1, 1, retain=True))
        self.assertEqual(answers(box), [Puback(1)])
        box.send(packets.encodeSubscribe(2, [("#", 1)]))
        self.assertEqual([packet for packet in answers(box) if isinstance(packet, Publish) and packet.topic != "i"], [])

    def test_downlink(self) -> None:
        """
        What the gateway sends with QoS 0 has DUP 0 [MQTT-4.3.1-1] and no packet id [MQTT-2.3.1-5], RETAIN 0
        [MQTT-3.3.1-9], and a topic that the subscription takes in [MQTT-3.3.2-3]; once, though two filters do
        [MQTT-3.3.5-1].
        """
        for topicFilter, topic in (("i", "i"), ("+", "i"), (f"boxes/{ASSET}/+", f"boxes/{ASSET}/index")):
            world = World()
            box = world.box()
            box.send(packets.encodePublish("t", batch(1), 1, 1))
            answers(box)
            box.send(packets.encodeSubscribe(2, [(topicFilter, 1)]))
            _, notice = answers(box)
            assert isinstance(notice, Publish)
            self.assertEqual((notice.topic, *notice[2:]), (topic, 0, 0, False, False))
        world = World()
        box = world.box()
        box.send(packets.encodePublish("t", batch(1), 1, 1))
        box.send(packets.encodeSubscribe(2, [("i", 1), ("#", 1)]))
        self.assertEqual(len([packet for packet in answers(box) if isinstance(packet, Publish)]), 1)
        self.assertEqual(len(indexNotices(box, "i")), 1)


class SubscriptionTests(SynchronousTestCase):
    """
    SUBSCRIBE and UNSUBSCRIBE.
    """

    def test_granted(self) -> None:
        """
        Each SUBSCRIBE gets a SUBACK [MQTT-3.8.4-1] with its id [MQTT-3.8.4-2] and a code for each filter
        [MQTT-3.8.4-5] in their order [MQTT-3.9.3-1]: what was granted, 1 at most [MQTT-3.8.4-6], or 0x80. Wildcards are
        supported [MQTT-3.8.3-2], and many filters are as many SUBSCRIBEs with one SUBACK [MQTT-3.8.4-4].
        """
        world = World()
        box = world.box()
        filters = [
            ("d", 0),
            ("i", 1),
            ("#", 2),
            ("boxes/other/downlink", 1),
            ("+", 2),
            (f"boxes/{ASSET}/#", 1),
            ("x", 0),
        ]
        box.send(packets.encodeSubscribe(300, filters))
        self.assertEqual(answers(box), [Suback(300, (0, 1, 1, 0x80, 1, 1, 0x80))])

    def test_replaced(self) -> None:
        """
        The same filter again replaces the first subscription [MQTT-3.8.4-3]: one UNSUBSCRIBE ends it. What a SUBSCRIBE
        brings comes at each.
        """
        world = World()
        box = world.box(clean=False)
        box.send(packets.encodePublish("t", batch(1), 1, 1))
        for packetId, qos in ((1, 0), (2, 1)):
            answers(box)
            box.send(packets.encodeSubscribe(packetId, [("i", qos)]))
            suback, notice = answers(box)
            self.assertEqual(suback, Suback(packetId, (qos,)))
            self.assertIsInstance(notice, Publish)
        self.assertEqual(self.kept(world), (("i", 1),))

    def kept(self, world: World) -> tuple[tuple[str, int], ...]:
        """
        The subscriptions in the session of the box, after its link.
        """
        box = connecting(world, clean=False)
        self.assertEqual(answers(box), [Connack(True, 0)])
        return tuple(box.link._subscriptions.items())

    def test_unsubscribed(self) -> None:
        """
        Each UNSUBSCRIBE gets one UNSUBACK with its id [MQTT-3.10.4-4], also when it ends nothing [MQTT-3.10.4-5] or has
        many filters [MQTT-3.10.4-6]; filters are compared as they are written [MQTT-3.10.4-1], and what they ended is
        not sent any more [MQTT-3.10.4-2].
        """
        world = World()
        box = world.box(clean=False)
        box.send(packets.encodeSubscribe(1, [("i", 1), ("+", 1), ("d", 1)]))
        answers(box)
        box.send(packets.encodeUnsubscribe(2, ["I", "#", "never"]) + packets.encodeUnsubscribe(3, ["i", "+"]))
        self.assertEqual(answers(box), [Unsuback(2), Unsuback(3)])
        self.assertEqual(self.kept(world), (("d", 1),))


STATEMENTS = {
    "1.5.3": 3,
    "2.2.2": 2,
    "2.3.1": 7,
    "3.1.0": 2,
    "3.1.2": 24,
    "3.1.3": 11,
    "3.1.4": 5,
    "3.2.0": 1,
    "3.2.2": 6,
    "3.3.1": 12,
    "3.3.2": 3,
    "3.3.4": 1,
    "3.3.5": 2,
    "3.6.1": 1,
    "3.8.1": 1,
    "3.8.3": 4,
    "3.8.4": 6,
    "3.9.3": 2,
    "3.10.1": 1,
    "3.10.3": 2,
    "3.10.4": 6,
    "3.12.4": 1,
    "3.14.1": 1,
    "3.14.4": 3,
    "4.1.0": 2,
    "4.3.1": 1,
    "4.3.2": 2,
    "4.3.3": 2,
    "4.4.0": 1,
    "4.5.0": 2,
    "4.6.0": 6,
    "4.7.1": 3,
    "4.7.2": 1,
    "4.7.3": 4,
    "4.8.0": 2,
    "6.0.0": 4,
    "7.0.0": 2,
    "7.1.1": 1,
    "7.1.2": 1,
}
"""How many statements each section has in the standard's appendix B."""
ODD = {"3.1.2-7": "3.1.2.7", "3.8.3-4": "3-8.3-4"}
"""Two that the standard itself numbers in another way than the rest."""
NOT_APPLICABLE = ("Does not apply", "Binds the client")


class TableTests(SynchronousTestCase):
    """
    The table of conformance in C{docs/md30.md}.
    """

    def rows(self) -> list[tuple[str, str, str]]:
        """
        Statement, paraphrase, where it is kept.
        """
        lines = (ROOT / "docs" / "md30.md").read_text(encoding="utf-8").splitlines()
        rows = []
        for line in lines:
            found = re.fullmatch(r"\| MQTT-(\S+) \| (.+) \| (.+) \|", line)
            if found:
                rows.append((found[1], found[2], found[3]))
        return rows

    def test_complete(self) -> None:
        """
        Every statement of the standard stands in it once, in the standard's order.
        """
        expected = [
            ODD.get(f"{section}-{number}", f"{section}-{number}")
            for section, count in STATEMENTS.items()
            for number in range(1, count + 1)
        ]
        self.assertEqual(len(expected), 141)
        self.assertEqual([statement for statement, _, _ in self.rows()], expected)

    def test_kept(self) -> None:
        """
        What is said to be kept names a file that names the statement; all else says why it is not.
        """
        for statement, _, where in self.rows():
            paths = re.findall(r"`((?:binaryserver|tests)/[a-z0-9_/]+\.py)`", where)
            if not paths:
                self.assertTrue(where.startswith(NOT_APPLICABLE), statement)
            for path in paths:
                named = rf"MQTT-{re.escape(statement)}(?!\d)"
                self.assertRegex((ROOT / path).read_text(encoding="utf-8"), named, path)

    def test_nothingElseIsNamed(self) -> None:
        """
        The package and its tests name no statement that there is not.
        """
        known = {statement for statement, _, _ in self.rows()}
        for folder in ("binaryserver/mqtt", "binaryserver/md30", "tests/mqtt", "tests/md30"):
            for path in (ROOT / folder).glob("*.py"):
                for named in re.findall(r"MQTT-(\d[\d.-]*\d)", path.read_text(encoding="utf-8")):
                    if "-" in named:
                        self.assertIn(named, known, path)
