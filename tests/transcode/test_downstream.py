"""
A whole gateway, and what of an account with a privacy policy is downstream: on every topic, of both protocols.
"""

from __future__ import annotations

import json

from google.protobuf.json_format import MessageToDict
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from binaryserver.directory.records import PrivacyPolicy
from binaryserver.md21 import values
from binaryserver.model import BoxKey, StoredRecord
from binaryserver.proto import cloudnext_pb2, md30_pb2
from binaryserver.proto.md30_pb2 import TrackBatch
from binaryserver.session.membership import Membership
from binaryserver.transcode.names import Published
from binaryserver.transcode.pseudonyms import Pseudonyms
from tests.directory.samples import LogKeeper
from tests.downlink.world import answer, delivered, listening, message, puback
from tests.harness import ASSET, NOW_MS, Box, batch, makeTrack, publish
from tests.md21.world import makeBlock
from tests.transcode.privateworld import KEY, PrivateWorld

PSEUDONYMOUS = PrivacyPolicy(isPseudonymous=True)
COARSE = PrivacyPolicy(frozenset({14}), 1)
NAMED = Pseudonyms(KEY).published(BoxKey("dev", ASSET), PSEUDONYMOUS)

TOPICS = ("tracks", "messages", "presences", "statuses", "rejects")


class TrackTests(SynchronousTestCase):
    """
    What a policy leaves of tracks.
    """

    def test_everyForm(self) -> None:
        """
        In protobuf and JSON, in one PUBLISH and in runs of them, by MD30 and MD21: dropped fields and digits are
        nowhere.
        """
        world = PrivateWorld(COARSE)
        box = world.box()
        box.tracks(0)
        box.send(b"".join(publish("t", batch(index), index + 1) for index in range(1, 4)))
        document = MessageToDict(TrackBatch(stream=9, first_index=4, tracks=[makeTrack(4)]))
        box.publish("tj", json.dumps(document).encode(), 9)
        legacy = world.md21Box("350000000000002")
        legacy.send(makeBlock(0, 3))
        events = world.tracks()
        self.assertEqual(len(events), 8)
        for event in events:
            self.assertEqual((event.track.latitude, event.track.longitude), (489_000_000, 24_000_000))
            self.assertEqual(list(event.track.field_numbers), [8])
            self.assertEqual([label.name for label in event.field_labels], ["GPS_SPEED"])
        self.assertEqual([event.index for event in events[:5]], list(range(5)))

    def test_duplicatesAreJudgedByWhatCame(self) -> None:
        """
        Tracks that are published alike are still two, and a repeat is still one: marks and fingerprints are those of
        what the box sent.
        """
        world = PrivateWorld(PrivacyPolicy(frozenset({8, 14}), -1))
        box = world.box()
        box.tracks(0, 2)
        box.tracks(0, 3, packetId=2)
        self.assertEqual([event.index for event in world.tracks()], [0, 1, 2])
        legacy = world.md21Box("350000000000002")
        # Of one time, and apart by their positions only.
        one = values.Track(NOW_MS - 5000, 4_885_660, 235_220, ((8, 1),))
        other = one._replace(latitude=4_885_661)
        legacy.send(values.TrackingData(values.WantAck.ALL_30, (one, other)))
        legacy.send(values.TrackingData(values.WantAck.ALL_30, (other, one)))
        self.assertEqual(legacy.acks(), 2)
        self.assertEqual(len(world.tracks()), 5)
        self.assertEqual(world.gateway.counters.duplicates, 2 + 2)

    def test_fromTheNextBatchOn(self) -> None:
        """
        A link that is up keeps to a policy that its account gets, and stops to when it goes.
        """
        world = PrivateWorld(PrivacyPolicy())
        box = world.box()
        box.tracks(0)
        world.change(COARSE)
        box.tracks(1)
        world.change(PrivacyPolicy())
        box.tracks(2)
        self.assertEqual([event.track.latitude for event in world.tracks()], [488_566_000, 489_000_000, 488_566_000])
        self.assertEqual(len({event.connection_id for event in world.tracks()}), 1)

    def test_rejectsHaveNoPayload(self) -> None:
        """
        What cannot be taken may hold positions: only its size is told. Messages that are taken are passed on whole.
        """
        world = PrivateWorld(COARSE)
        box = world.box()
        box.publish("tj", b'{"tracks": [{"latitude": 488566000', 1)
        future = makeTrack(0, -1_000_000_000_000)
        box.publish("t", TrackBatch(stream=9, tracks=[future]).SerializeToString(), 2)
        box.publish("m", md30_pb2.Message(channel="c", payload=b"opaque").SerializeToString(), 3)
        rejects = world.bus.rejects()
        self.assertEqual([(reject.code, reject.payload) for reject in rejects], [("DECODE", b""), ("BAD_TIME", b"")])
        for reject in rejects:
            self.assertIn("left out", reject.reason)
            self.assertGreater(reject.payload_size, 20)
        self.assertEqual([event.message.payload for event in world.bus.events("messages")], [b"opaque"])


class PseudonymTests(SynchronousTestCase):
    """
    Boxes that have pseudonyms downstream.
    """

    def assertUnnamed(self, world: PrivateWorld) -> None:
        """
        Nothing that was published names the box by its asset, or where it came from.
        """
        self.assertTrue(world.bus.committed)
        for topic, record in world.bus.committed:
            whole = b"\n".join((record.key, record.value, *(value for _, value in record.headers)))
            for secret in (ASSET.encode(), b"192.0.2.7"):
                self.assertNotIn(secret, whole, topic)

    def test_everyTopic(self) -> None:
        """
        Tracks, messages, presences, statuses and rejects of both protocols are of the pseudonym, in key, event and
        C{ce_id}.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        for isLegacy in (False, True):
            world.bus.committed.clear()
            if isLegacy:
                legacy = world.md21Box()
                legacy.send(makeBlock(0), values.Message(5, 0, "c", b"hello"))
                legacy.lose()
            else:
                box = listening(world)
                box.tracks(0)
                box.publish("m", md30_pb2.Message(channel="c", payload=b"hello").SerializeToString(), 2)
                box.publish("t", b"\xff", 3)
                world.bring(message("m1", asset=NAMED.asset))
                box.lose()
            self.assertUnnamed(world)
            topics = ("tracks", "messages", "presences") if isLegacy else TOPICS
            for topic in topics:
                records = world.records(topic)
                self.assertTrue(records, topic)
                for record in records:
                    self.assertEqual(record.key, NAMED.busKey)
                    self.assertTrue(dict(record.headers)["ce_id"].startswith(NAMED.busKey + b"/"), topic)
                if topic != "rejects":
                    self.assertEqual({event.asset for event in world.bus.events(topic)}, {NAMED.asset})
            for event in world.bus.events("presences"):
                self.assertEqual(event.presence.peer_address, "")

    def test_downlink(self) -> None:
        """
        The cloud addresses the box by its pseudonym; the box has its message, the mailbox is the box's, and what
        becomes of the message is told of the pseudonym.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.bring(message("m1", asset=NAMED.asset, want_ack=True))
        self.assertEqual([entry.message.box for entry in world.mail()], [BoxKey("dev", ASSET)])
        box = listening(world)
        (sent,) = delivered(box)
        self.assertEqual(sent.message.id, "m1")
        box.send(puback(sent.packetId) + answer("m1"))
        world.wait(0.1)
        self.assertEqual(world.statuses("m1"), ["queued", "sent", "delivered", "acked"])
        self.assertEqual(world.mail(), [])
        self.assertUnnamed(world)

    def test_realAssetIsRefused(self) -> None:
        """
        Who addresses a box by its asset is told so in C{rejects}, without the asset; nobody is told whether there is
        such a box.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        other = Pseudonyms(KEY).published(BoxKey("other", ASSET), PSEUDONYMOUS).asset
        world.bring(message("m1"), message("m2", asset=other), message("m3", asset=NAMED.asset))
        self.assertEqual(
            [(reject.code, reject.account, reject.asset, reject.payload) for reject in world.bus.rejects()],
            [("BAD_ASSET", "dev", "", b"")] * 2,
        )
        self.assertEqual({record.key for record in world.records("rejects")}, {b"dev/"})
        self.assertEqual([entry.message.id for entry in world.mail()], ["m3"])
        self.assertEqual(world.statuses(), ["m3 queued"])
        self.assertUnnamed(world)

    def test_badMessageOfAPseudonym(self) -> None:
        """
        One that no box may have ends as rejected, of the pseudonym.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.bring(message("m1", asset=NAMED.asset, channel="no channel"))
        (reject,) = world.bus.rejects()
        self.assertEqual((reject.code, reject.asset, reject.payload), ("BAD_CHANNEL", NAMED.asset, b""))
        self.assertEqual(world.statuses(), ["m1 rejected BAD_CHANNEL"])
        self.assertEqual({event.asset for event in world.bus.events("statuses")}, {NAMED.asset})
        self.assertUnnamed(world)

    def test_unreadableRecordOfTheAccount(self) -> None:
        """
        The key of one that cannot be decoded says whose it is: it is not repeated.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        key = BoxKey("dev", ASSET).busKey
        world.bring(StoredRecord(Topics.named().downlink, 0, 0, NOW_MS, key, b"\xff" + ASSET.encode()))
        (reject,) = world.bus.rejects()
        self.assertEqual((reject.code, reject.account, reject.payload_size), ("DECODE", "dev", 16))
        self.assertUnnamed(world)

    def test_orphans(self) -> None:
        """
        A box whose instance died is told gone by another under its pseudonym.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.store.leaseWorker("dead@1")
        world.store.claim(BoxKey("dev", ASSET), "dead@1", "md30", "192.0.2.7", NOW_MS, False, "a")
        Membership(world.gateway, 10.0, 0.0, lambda: None).start()
        world.source.isAway = True
        world.wait(60)
        self.assertEqual(world.bus.committed, [])
        world.source.isAway = False
        world.wait(5)
        (event,) = world.bus.events("presences")
        self.assertEqual(event.presence.type, cloudnext_pb2.PRESENCE_TYPE_DISCONNECT)
        self.assertEqual(event.asset, NAMED.asset)
        self.assertUnnamed(world)
        self.assertEqual(world.gateway.untold, 0)

    def test_refusedBox(self) -> None:
        """
        That it was not let in is told of its pseudonym, without its address.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.source.isActive = False
        (connack,) = Box(world).connect().received()
        self.assertEqual(connack[3], 5)
        (event,) = world.bus.events("presences")
        self.assertEqual(event.presence.type, cloudnext_pb2.PRESENCE_TYPE_FAILED_CONNECT)
        self.assertEqual(event.asset, NAMED.asset)
        self.assertUnnamed(world)

    def test_turnedOnWhileTheLinkIsUp(self) -> None:
        """
        From then on there is but the pseudonym, also at the link's end.
        """
        world = PrivateWorld(PrivacyPolicy())
        box = listening(world)
        box.tracks(0)
        world.change(PSEUDONYMOUS)
        world.bus.committed.clear()
        box.tracks(1)
        world.bring(message("m1", asset=NAMED.asset))
        self.assertEqual(len(box.received()), 3)
        box.lose()
        self.assertEqual({record.key for _, record in world.bus.committed}, {NAMED.busKey})
        self.assertUnnamed(world)


class WithoutKeyTests(SynchronousTestCase):
    """
    A gateway that has no key for pseudonyms.
    """

    def test_noBoxComesIn(self) -> None:
        """
        It is refused before anything of it is published.
        """
        world = PrivateWorld(PSEUDONYMOUS, None)
        (connack,) = Box(world).connect().received()
        self.assertEqual(connack[3], 3)
        self.assertEqual(world.bus.committed, [])

    def test_refusedBoxIsNotTold(self) -> None:
        """
        There is no name to tell it under; the box is refused all the same.
        """
        world = PrivateWorld(PSEUDONYMOUS, None)
        world.source.isActive = False
        (connack,) = Box(world).connect().received()
        self.assertEqual(connack[3], 5)
        self.assertEqual(world.bus.committed, [])

    def test_linkEndsWhenItsAccountAsksForThem(self) -> None:
        """
        Rather than that anything more is published.
        """
        world = PrivateWorld(PrivacyPolicy(), None)
        box = world.box()
        world.change(PSEUDONYMOUS)
        self.assertTrue(box.transport.disconnecting)
        published = len(world.tracks())
        box.tracks(0)
        self.assertEqual(len(world.tracks()), published)

    def test_messagesAreRefused(self) -> None:
        """
        Nobody can tell whose they are.
        """
        world = PrivateWorld(PSEUDONYMOUS, None)
        world.bring(message("m1", asset=NAMED.asset), message("m2"))
        self.assertEqual([reject.code for reject in world.bus.rejects()], ["NO_PSEUDONYMS"] * 2)
        self.assertEqual([reject.payload for reject in world.bus.rejects()], [b""] * 2)
        self.assertEqual(world.statuses(), [])


class DirectoryTests(SynchronousTestCase):
    """
    Messages, and a directory that does not answer or does not know.
    """

    def test_waitsForTheDirectory(self) -> None:
        """
        Nothing is guessed: the offset is not committed before the account's terms are known.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.source.isAway = True
        world.bring(message("m1", asset=NAMED.asset))
        world.wait(30)
        self.assertEqual(world.bus.consumer.committed, {})
        world.source.isAway = False
        world.wait(3)
        self.assertEqual(world.statuses("m1"), ["queued"])
        self.assertEqual(len(world.bus.consumer.committed), 1)

    def test_butNotForEver(self) -> None:
        """
        One account that cannot be looked up does not hold up the others': after a minute its messages are rejected,
        without what stands in them, and later ones at once.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.source.isAway = True
        world.bring(message("m1"))
        world.wait(65)
        world.bring(message("m2"))
        world.wait(1)
        rejects = world.bus.rejects()
        self.assertEqual([reject.code for reject in rejects], ["DIRECTORY_UNAVAILABLE"] * 2)
        self.assertEqual([(reject.asset, reject.payload) for reject in rejects], [("", b"")] * 2)
        self.assertEqual(len(world.bus.consumer.committed), 1)

    def test_unknownAccount(self) -> None:
        """
        There is nobody to wait for.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.bring(message("m1", account="nobody"))
        self.assertEqual([reject.code for reject in world.bus.rejects()], ["UNKNOWN_ACCOUNT"])
        self.assertEqual(world.statuses(), [])

    def test_endIsToldOnceTheNameIsKnown(self) -> None:
        """
        A message that expires while the directory is away, and what is known of the account is known to be old, is told
        of when it answers: under the pseudonym, once.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.bring(message("m1", asset=NAMED.asset, expires_at=NOW_MS + 5000))
        world.source.isAway = True
        world.change(PSEUDONYMOUS)
        world.wait(15)
        self.assertEqual(world.statuses("m1"), ["queued"])
        self.assertEqual(world.gateway.counters.finals["expired"], 0)
        self.assertEqual(world.gateway.untold, 0)
        world.source.isAway = False
        world.wait(40)
        self.assertEqual(world.statuses("m1"), ["queued", "expired"])
        self.assertEqual(world.gateway.counters.finals["expired"], 1)
        self.assertEqual({event.asset for event in world.bus.events("statuses")}, {NAMED.asset})
        self.assertEqual(world.mail(), [])

    def test_accountThatIsGone(self) -> None:
        """
        What is left to tell of its boxes is told under pseudonyms: whether it asked for them cannot be found out.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.bring(message("m1", asset=NAMED.asset, expires_at=NOW_MS + 5000))
        world.source.isGone = True
        world.change(PSEUDONYMOUS)
        world.wait(10)
        self.assertEqual(world.statuses("m1"), ["queued", "expired"])
        self.assertEqual({event.asset for event in world.bus.events("statuses")}, {NAMED.asset})


class NamesTests(SynchronousTestCase):
    """
    L{binaryserver.transcode.names.Names}.
    """

    def test_whenKnown(self) -> None:
        """
        What has to be told waits until the directory answers.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.source.isAway = True
        told: list[BoxKey] = []
        world.gateway.names.whenKnown(BoxKey("dev", ASSET), lambda published: told.append(published.box))
        world.wait(10)
        self.assertEqual(told, [])
        world.source.isAway = False
        world.wait(5)
        self.assertEqual(told, [NAMED])

    def test_itsFailuresAreLogged(self) -> None:
        """
        What fails at telling is not taken for a directory that is away.
        """
        world = PrivateWorld(PSEUDONYMOUS)

        def tell(published: object) -> None:
            raise ZeroDivisionError("by the test")

        world.gateway.names.whenKnown(BoxKey("dev", ASSET), tell)
        world.wait(5)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_manyOfAnAccount(self) -> None:
        """
        Of however many boxes something is to be told, their account is asked for once at a time, operators are told so
        in one line, and the boxes are told of in their order.
        """
        world = PrivateWorld(PSEUDONYMOUS)
        world.source.isAway = True
        kept = LogKeeper(self)
        told: list[BoxKey] = []
        boxes = [BoxKey("dev", f"{number}") for number in range(300)]

        def tell(published: Published) -> None:
            told.append(published.box)

        asked = world.directory.counts.lookups
        for box in boxes:
            world.gateway.names.whenKnown(box, tell)
        self.assertEqual(world.directory.counts.lookups - asked, 1)
        world.wait(2.1)
        warned = [event["count"] for event in kept.events if event["log_namespace"].endswith("names.Names")]
        self.assertEqual(warned, [1, 300, 300])
        world.source.isAway = False
        world.wait(1)
        named = [world.gateway.pseudonyms.published(box, None) for box in boxes]
        self.assertEqual(told, named)
        world.gateway.names.whenKnown(boxes[0], tell)
        self.assertEqual(told[300:], named[:1])
