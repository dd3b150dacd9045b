"""
Tests for L{binaryserver.admission.recheck}: many links, and what must not hold up what.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred

from binaryserver.directory.records import Account, Change
from binaryserver.directory.records import Box as Known
from tests.admission.test_links import ACME, ADMITTED, LinksCase, assets
from tests.harness import ASSET, Box, World

MANY = 400


class RecheckTests(LinksCase):
    """
    Links of a gateway without sockets.
    """

    def arriveAll(self, count: int) -> list[Box]:
        """
        So many boxes that are in the directory.
        """
        self.source.put(*(Known("acme", asset) for asset in assets(count)))
        return [self.admitted(asset) for asset in assets(count)]

    def revoke(self, *names: str) -> None:
        """
        Note in the directory that they are revoked, and tell nobody.
        """
        self.source.put(*(Known("acme", asset, isRevoked=True) for asset in names))

    def ended(self, boxes: list[Box]) -> int:
        """
        How many of them were closed.
        """
        return sum(box.transport.disconnecting for box in boxes)

    def test_many(self) -> None:
        """
        However many links there are, and though all lookups are answered at once: each is checked, again and again, and
        no turn of the reactor has all of them.
        """
        boxes = self.arriveAll(MANY)
        for _ in range(3):
            self.change(told=Change())
        self.assertEqual(self.ended(boxes), 0)
        self.revoke(*assets(MANY))
        self.world.directory.changed(Change())
        self.assertTrue(0 < self.ended(boxes) <= MANY // 2, self.ended(boxes))
        self.world.turn()
        self.assertEqual(self.ended(boxes), MANY)
        self.assertEqual(self.world.gateway.recheck.ended, MANY)

    def test_manyOfAccount(self) -> None:
        """
        So it is with all links of an account.
        """
        boxes = self.arriveAll(MANY)
        self.source.put(replace(ACME, isActive=False))
        self.world.directory.changed(Change("acme"))
        self.assertTrue(0 < self.ended(boxes) <= MANY // 2, self.ended(boxes))
        self.world.turn()
        self.assertEqual(self.ended(boxes), MANY)

    def test_slowLookups(self) -> None:
        """
        Nor does one turn take long where each check does.
        """
        boxes = self.arriveAll(50)
        answer = self.source._answer

        def slow(value: Any) -> Deferred[Any]:
            self.world.clock.rightNow += 0.005
            return answer(value)

        self.patch(self.source, "_answer", slow)
        self.revoke(*assets(50))
        for asset in assets(50):
            self.world.directory.changed(Change("acme", asset))
        self.assertTrue(0 < self.ended(boxes) < 10, self.ended(boxes))
        self.world.turn()
        self.assertEqual(self.ended(boxes), 50)

    def test_namedFirst(self) -> None:
        """
        A box that a notice names does not wait until all links are checked.
        """
        boxes = self.arriveAll(100)
        self.source.isHeld = True
        self.change(told=Change())
        self.source.isHeld = False
        self.revoke(boxes[-1].asset)
        self.change(told=Change("acme", boxes[-1].asset))
        self.assertTrue(boxes[-1].transport.disconnecting)
        self.assertEqual(self.ended(boxes), 1)

    def test_oneUnanswered(self) -> None:
        """
        Nor for another of which the directory does not say anything, which is asked for again meanwhile.
        """
        one, other = self.arriveAll(2)
        self.source.failing.add(("acme", one.asset))
        self.revoke(one.asset, other.asset)
        self.change(told=Change("acme", one.asset))
        self.change(told=Change("acme", other.asset))
        self.assertEqual((one.transport.disconnecting, other.transport.disconnecting), (False, True))
        self.source.failing.clear()
        self.world.clock.advance(1.1)
        self.assertTrue(one.transport.disconnecting)

    def test_allWhileAway(self) -> None:
        """
        A directory that is away is not asked for all of them over and over.
        """
        boxes = self.arriveAll(100)
        self.source.isAway = True
        self.revoke(boxes[50].asset)
        self.change(told=Change())
        asked = len(self.source.asked)
        self.world.wait(10)
        self.assertTrue(len(self.source.asked) - asked <= 10 * 16, len(self.source.asked) - asked)
        self.source.isAway = False
        self.world.wait(1.1)
        self.assertEqual((self.ended(boxes), boxes[50].transport.disconnecting), (1, True))

    def test_whileSecretIsChecked(self) -> None:
        """
        A box that is revoked, or whose account ends, while a thread has its secret does not stay.
        """
        for told, *known in (
            (Change("acme", ASSET), Known("acme", ASSET, isRevoked=True)),
            (Change("acme"), replace(ACME, isActive=False)),
        ):
            calls: list[tuple[Deferred[Any], Any]] = []

            def inThread(
                _: World, function: Any, *arguments: Any, calls: list[tuple[Deferred[Any], Any]] = calls
            ) -> Deferred[Any]:
                done: Deferred[Any] = Deferred()
                calls.append((done, lambda: function(*arguments)))
                return done

            self.patch(World, "inThread", inThread)
            self.setUp()
            box = self.arrive()
            self.change(*known, told=told)
            ((done, verified),) = calls
            done.callback(verified())
            self.world.turn()
            self.assertTrue(box.transport.disconnecting, told)

    def test_anyBoxNoMore(self) -> None:
        """
        Of an account that admitted any box, and does not any more, nobody stays: they have proved nothing. Those who
        prove who they are come in again.
        """
        self.source.put(Account("acme", admitsAnyBox=True))
        box = self.arrive(secret=b"anything")
        self.assertEqual(box.received(), ADMITTED)
        self.change(ACME, told=Change("acme"))
        self.assertTrue(box.transport.disconnecting)
        self.admitted()

    def test_tlsOfAnyBox(self) -> None:
        """
        That an account requires TLS holds for any box of it.
        """
        self.source.put(Account("acme", admitsAnyBox=True))
        box = self.arrive(secret=b"")
        self.assertEqual(box.received(), ADMITTED)
        self.change(Account("acme", admitsAnyBox=True, requiresTls=True), told=Change("acme"))
        self.assertTrue(box.transport.disconnecting)

    def test_failing(self) -> None:
        """
        A link that fails does not keep those behind it.
        """
        boxes = self.arriveAll(3)

        def fail(ending: object) -> None:
            raise ZeroDivisionError

        for box in boxes[:2]:
            box.link.end = fail  # type: ignore[method-assign]
        self.change(replace(ACME, isActive=False), told=Change("acme"))
        self.assertTrue(boxes[2].transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_failingCertificate(self) -> None:
        """
        Nor when certificates are looked at: it ends instead.
        """
        boxes = self.arriveAll(3)

        class Failing:
            def __get__(self, link: object, owner: type) -> bool:
                if link is boxes[2].link:
                    return True
                raise ZeroDivisionError

        self.patch(type(boxes[0].link), "isCertificateRevoked", Failing())
        self.world.gateway.recheck.certificatesChanged()
        self.assertEqual([box.transport.isAborted for box in boxes], [True, True, False])
        self.assertTrue(boxes[2].transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_sameTerms(self) -> None:
        """
        An account that was looked up again, and is as it was, costs its links nothing.
        """
        box = self.admitted()
        envelope = box.link.envelope
        self.change(replace(ACME), told=Change("acme"))
        self.assertIs(box.link.envelope, envelope)
        self.change(replace(ACME, messageExpiry=9.0), told=Change("acme"))
        self.assertIsNot(box.link.envelope, envelope)

    def test_stopped(self) -> None:
        """
        Once it is stopped nothing is begun any more, and nothing is timed.
        """
        boxes = self.arriveAll(MANY)
        self.revoke(*assets(MANY))
        before = len(self.world.clock.getDelayedCalls())
        self.source.failing.add(("acme", boxes[0].asset))
        self.world.directory.changed(Change())
        self.world.directory.changed(Change("acme", boxes[0].asset))
        ended = self.ended(boxes)
        self.world.gateway.recheck.stop()
        self.world.directory.changed(Change("acme"))
        self.world.wait(3)
        self.assertEqual(self.ended(boxes), ended)
        self.assertLess(len(self.world.clock.getDelayedCalls()), before)
