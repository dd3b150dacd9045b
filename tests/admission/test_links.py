"""
Links and the directory: who is let in and told why not, who has to leave, and what an account may send. A whole gateway
without sockets.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from argon2 import PasswordHasher
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.directory.records import Account, AccountLimits, Change
from binaryserver.directory.records import Box as Known
from binaryserver.gateway import Limits
from binaryserver.model import BoxKey
from binaryserver.proto import cloudnext_pb2
from tests.admission.handdirectory import HandDirectory
from tests.harness import ASSET, Box, World, batch, publish, text, varint

SECRET = b"its own"
ACME = Account("acme", secretHash=PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(SECRET))
ADMITTED = [b"\x20\x02\x00\x00"]
UNAVAILABLE, NOT_AUTHORIZED = [b"\x20\x02\x00\x03"], [b"\x20\x02\x00\x05"]
PINGREQ = b"\xc0\x00"


def assets(count: int) -> list[str]:
    """
    Names of boxes.
    """
    return [str(int(ASSET) + number) for number in range(count)]


class LinksCase(SynchronousTestCase):
    """
    A gateway with an account of three boxes.
    """

    def setUp(self) -> None:
        """
        Begin.
        """
        self.source = HandDirectory(ACME, *(Known("acme", asset) for asset in assets(3)))
        self.world = World(directory=self.source)
        self.world.gateway.recheck.start()

    def arrive(self, asset: str = ASSET, account: str = "acme", secret: bytes = SECRET) -> Box:
        """
        CONNECT with an account and a secret.
        """
        box = Box(self.world, asset)
        body = b"\x00\x04MQTT\x04\xc2\x00\x00" + text(asset) + text(account) + struct.pack(">H", len(secret)) + secret
        box.send(b"\x10" + varint(len(body)) + body)
        return box

    def admitted(self, asset: str = ASSET) -> Box:
        """
        One that is let in.
        """
        box = self.arrive(asset)
        self.assertEqual(box.received(), ADMITTED)
        return box

    def presences(self) -> list[tuple[str, str, str]]:
        """
        Kind, asset and reason of each presence.
        """
        return [
            (cloudnext_pb2.PresenceType.Name(event.presence.type)[14:], event.asset, event.presence.reason)
            for event in self.world.bus.events("presences")
        ]

    def change(self, *known: Account | Known, told: Change) -> None:
        """
        Change the directory, and tell.
        """
        self.source.put(*known)
        self.world.directory.changed(told)
        self.world.turn()


class ArrivalTests(LinksCase):
    """
    Who is let in.
    """

    def test_admitted(self) -> None:
        """
        A box with its secret is.
        """
        self.admitted()
        self.assertEqual(self.presences(), [("CONNECT", ASSET, "")])

    def test_refused(self) -> None:
        """
        All others have one and the same answer and are closed; which part was wrong is told in the presence, of link
        epoch 0. Of an account that does not exist nobody knows whether its boxes would have pseudonyms: so they have.
        """
        for asset, account, secret, reason in (
            (ASSET, "acme", b"wrong", "ASSET"),
            (ASSET, "acme", b"", "ASSET"),
            ("none", "acme", SECRET, "ASSET"),
            (ASSET, "other", SECRET, "ACCOUNT"),
        ):
            box = self.arrive(asset, account, secret)
            self.assertEqual(box.received(), NOT_AUTHORIZED)
            self.assertTrue(box.transport.disconnecting)
            isKnown = account == "acme"
            told = asset if isKnown else self.world.gateway.pseudonyms.published(BoxKey(account, asset), None).asset
            self.assertEqual(self.presences()[-1], ("FAILED_CONNECT", told, f"AUTH_FAILED_{reason}"))
            event = self.world.bus.events("presences")[-1]
            self.assertEqual((event.account, event.link_epoch), (account, 0))
            self.assertEqual(event.presence.peer_address, "192.0.2.7" if isKnown else "")
        self.assertEqual(self.world.gateway.counters.refusals, 4)
        self.assertEqual(self.world.gateway.counters.refusalReasons, {"AUTH_FAILED_ASSET": 3, "AUTH_FAILED_ACCOUNT": 1})

    def test_noAccount(self) -> None:
        """
        A box that names no account is refused, and so is one whose account could be none.
        """
        for account in ("", "a/b", "x" * 65):
            self.assertEqual(self.arrive(account=account).received(), NOT_AUTHORIZED)
        self.assertEqual(self.presences(), [])
        self.assertEqual(self.source.asked, [])

    def test_flood(self) -> None:
        """
        Of very many refusals some are told, and all are counted.
        """
        for _ in range(1000):
            self.arrive(secret=b"wrong")
        self.assertEqual(len(self.presences()), 200)
        self.assertEqual(self.world.gateway.refusals.untold, 800)
        self.world.clock.advance(1)
        self.arrive(secret=b"wrong")
        self.assertEqual(len(self.presences()), 201)

    def test_away(self) -> None:
        """
        While the directory is away whoever is not known is to come back later, and that is no presence.
        """
        self.source.isAway = True
        self.assertEqual(self.arrive().received(), UNAVAILABLE)
        self.assertEqual(self.presences(), [])

    def test_gone(self) -> None:
        """
        One that leaves while it is looked up is not there when the answer comes.
        """
        self.source.isHeld = True
        box = self.arrive()
        box.lose()
        for _ in range(2):
            self.source.release()
            self.world.turn()
        self.assertEqual(self.presences(), [])
        self.assertEqual(self.world.gateway.registry.boxes, {})

    def test_full(self) -> None:
        """
        No more boxes of an account are let in than may be connected; one that is, may come again.
        """
        self.source.put(replace(ACME, limits=AccountLimits(links=2)))
        first, second, third = assets(3)
        self.admitted(first)
        box = self.admitted(second)
        self.assertEqual(self.arrive(third).received(), UNAVAILABLE)
        self.assertEqual(self.presences()[-1], ("FAILED_CONNECT", third, "AUTH_FAILED_ACCOUNT"))
        again = self.admitted(second)
        self.assertTrue(box.transport.isAborted)
        again.lose()
        self.admitted(third)


class ChangeTests(LinksCase):
    """
    The directory changes while boxes are there.
    """

    def assertEnded(self, box: Box, reason: str) -> None:
        """
        Its link was closed, and that told.
        """
        self.assertTrue(box.transport.disconnecting)
        self.assertEqual(self.presences()[-1], ("DISCONNECT", box.asset, f"AUTH_FAILED_{reason}"))

    def test_boxRevoked(self) -> None:
        """
        A box that is revoked loses its link, and nobody else does; it does not come back.
        """
        one, other = self.admitted(), self.admitted(assets(2)[1])
        self.change(Known("acme", ASSET, isRevoked=True), told=Change("acme", ASSET))
        self.assertEnded(one, "ASSET")
        self.assertFalse(other.transport.disconnecting)
        self.assertEqual(self.arrive().received(), NOT_AUTHORIZED)

    def test_boxRemoved(self) -> None:
        """
        So does one that is not in the directory any more.
        """
        box = self.admitted()
        del self.source.boxes["acme", ASSET]
        self.change(told=Change("acme", ASSET))
        self.assertEnded(box, "ASSET")

    def test_accountEnds(self) -> None:
        """
        With its account all its boxes leave.
        """
        boxes = [self.admitted(asset) for asset in assets(3)]
        self.change(replace(ACME, isActive=False), told=Change("acme"))
        self.assertTrue(all(box.transport.disconnecting for box in boxes))
        self.assertEqual({reason for kind, _, reason in self.presences()[-3:]}, {"AUTH_FAILED_ACCOUNT"})

    def test_accountRemoved(self) -> None:
        """
        Likewise.
        """
        box = self.admitted()
        del self.source.accounts["acme"]
        self.change(told=Change("acme"))
        self.assertEnded(box, "ACCOUNT")

    def test_tlsRequired(self) -> None:
        """
        An account that requires TLS from now on keeps no plain links.
        """
        box = self.admitted()
        self.change(replace(ACME, requiresTls=True), told=Change("acme"))
        self.assertEnded(box, "TRANSPORT")

    def test_everything(self) -> None:
        """
        A change of which is not said what it is finds what it is.
        """
        one, other = self.admitted(), self.admitted(assets(2)[1])
        self.change(Known("acme", ASSET, isRevoked=True), told=Change())
        self.assertTrue(one.transport.disconnecting)
        self.assertFalse(other.transport.disconnecting)

    def test_nobodyTold(self) -> None:
        """
        If a change is not told it is found within the period of the recheck.
        """
        box = self.admitted()
        self.source.put(Known("acme", ASSET, isRevoked=True))
        self.world.clock.advance(3000)
        self.assertFalse(box.transport.disconnecting)
        self.world.clock.advance(601)
        self.world.turn()
        self.assertTrue(box.transport.disconnecting)

    def test_away(self) -> None:
        """
        While the directory is away links stay, and are judged when it is back.
        """
        box = self.admitted()
        self.source.isAway = True
        self.change(Known("acme", ASSET, isRevoked=True), told=Change("acme", ASSET))
        self.world.clock.advance(20)
        self.assertFalse(box.transport.disconnecting)
        self.source.isAway = False
        self.world.clock.advance(1.1)
        self.assertEnded(box, "ASSET")

    def test_fields(self) -> None:
        """
        Fields of another name are so called from the next track on.
        """
        box = self.admitted()
        box.tracks(1)
        self.change(replace(ACME, fields={8: ("SPEED_KMH", "double")}), told=Change("acme"))
        box.tracks(2, packetId=2)
        names = [event.field_labels[0].name for event in self.world.bus.events("tracks")]
        self.assertEqual(names, ["GPS_SPEED", "SPEED_KMH"])

    def test_arriving(self) -> None:
        """
        A box that is revoked while it is on its way in does not stay.
        """
        held: Deferred[Any] = Deferred()
        store: Any = self.world.store
        claim = store.claim
        store.claim = lambda *arguments: held.addCallback(lambda _: claim(*arguments))
        box = self.arrive()
        self.assertEqual(box.received(), [])
        self.change(Known("acme", ASSET, isRevoked=True), told=Change("acme", ASSET))
        held.callback(None)
        self.world.turn()
        self.assertTrue(box.transport.disconnecting)


class LimitsTests(LinksCase):
    """
    What an account and a link may send.
    """

    def test_messages(self) -> None:
        """
        A link of an account that has had its share is not read for a while; nothing is lost, and it is read again.
        """
        self.source.put(replace(ACME, limits=AccountLimits(messages=10.0)))
        box = self.admitted()
        for number in range(1, 21):
            box.publish("t", batch(number), number)
        self.assertTrue(box.transport.isReading)
        box.publish("t", batch(21), 21)
        self.assertFalse(box.transport.isReading)
        self.world.wait(0.5)
        self.assertTrue(box.transport.isReading)
        self.assertEqual(box.acks(), list(range(1, 22)))

    def test_changed(self) -> None:
        """
        A limit that comes while the link is there holds it back, and one that goes lets it go on.
        """
        box = self.admitted()
        for number in range(1, 101):
            box.publish("t", batch(number), number)
        self.change(replace(ACME, limits=AccountLimits(messages=1.0)), told=Change("acme"))
        for number in range(101, 104):
            box.publish("t", batch(number), number)
        self.assertFalse(box.transport.isReading)
        self.change(ACME, told=Change("acme"))
        self.assertTrue(box.transport.isReading)
        box.publish("t", batch(104), 104)
        self.assertTrue(box.transport.isReading)
        self.assertEqual(box.acks(), list(range(1, 105)))

    def test_controls(self) -> None:
        """
        A link that floods with PINGREQ is answered, and then not read for a while.
        """
        box = self.admitted()
        box.send(PINGREQ * 100)
        self.assertTrue(box.transport.isReading)
        box.send(PINGREQ * 20)
        self.assertFalse(box.transport.isReading)
        self.world.wait(1.1)
        self.assertTrue(box.transport.isReading)
        self.assertEqual(box.received(), [b"\xd0\x00"] * 120)

    def test_flood(self) -> None:
        """
        One that is so far over that it would have to wait for long is closed, and so is one that goes on and on.
        """
        box = self.admitted()
        box.send(PINGREQ * 2000)
        self.assertTrue(box.transport.isAborted)
        box = self.admitted()
        while not box.transport.isAborted:
            if box.transport.isReading:
                box.send(PINGREQ * 120)
            self.world.wait(0.5)
            self.assertLess(self.world.clock.seconds(), 60)
        self.assertGreater(self.world.clock.seconds(), 25)
        self.assertEqual(self.world.gateway.counters.violations, 2)
        # One that asks as often as it may is not.
        box = self.admitted()
        for _ in range(60):
            box.send(PINGREQ * 20)
            self.world.wait(1)
        self.assertFalse(box.transport.isAborted)

    def test_subscriptions(self) -> None:
        """
        So it is with SUBSCRIBE, but not with what a box acks.
        """
        box = self.admitted()
        for number in range(1, 102):
            box.subscribe("d", packetId=number)
        self.assertFalse(box.transport.isReading)

    def test_oneRead(self) -> None:
        """
        However much one read brings, of it no more is done than may be; the rest waits its time.
        """
        box = self.admitted()
        body = b"\x00\x05\x00\x01d\x01"
        box.send((b"\x82" + bytes([len(body)]) + body) * 500)
        self.world.turn()
        self.assertEqual(len(box.received()), 101)
        self.world.wait(21)
        self.assertEqual(len(box.received()), 399)

    def test_oneReadOfTracks(self) -> None:
        """
        Likewise.
        """
        self.source.put(replace(ACME, limits=AccountLimits(messages=10.0)))
        box = self.admitted()
        box.send(b"".join(publish("t", batch(number), number) for number in range(1, 101)))
        self.assertEqual(len(box.acks()), 20)
        self.world.wait(4)
        self.assertTrue(35 <= len(box.acks()) <= 41)
        self.world.wait(10)
        self.assertEqual(len(self.world.bus.events("tracks")), 100)

    def test_noLimit(self) -> None:
        """
        The limit can be taken away.
        """
        self.world = World(Limits(controlRate=0.0), directory=self.source)
        box = self.admitted()
        box.send(PINGREQ * 5000)
        self.assertTrue(box.transport.isReading)
