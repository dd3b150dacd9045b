"""
Tests for L{binaryserver.directory.cache}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.directory.cache import Directory, Freshness
from binaryserver.directory.records import Account, Box, Change
from binaryserver.errors import DirectoryUnavailable
from binaryserver.model import Clouds
from tests.admission.handdirectory import HandDirectory

ACME = Account("acme")
BOX = Box("acme", "box-1")


class DirectoryTests(SynchronousTestCase):
    """
    What is asked, and what is served.
    """

    def setUp(self) -> None:
        """
        A directory of one account with one box.
        """
        self.clock: Any = MemoryReactorClock()
        self.source = HandDirectory(ACME, BOX)
        self.directory = Directory(self.source, self.clock, Freshness(100.0, 1000.0, 10.0, 3))
        self.successResultOf(self.directory.start())

    def account(self, name: str = "acme") -> Account | None:
        """
        Look up at once.
        """
        return self.successResultOf(self.directory.account(name))

    def test_askedOnce(self) -> None:
        """
        What is fresh is not asked for again; later it is.
        """
        self.assertIs(self.account(), ACME)
        self.clock.advance(99)
        self.assertIs(self.account(), ACME)
        self.assertEqual(self.source.asked, [("acme",)])
        self.clock.advance(2)
        self.account()
        self.assertEqual(self.source.asked, [("acme",)] * 2)

    def test_absent(self) -> None:
        """
        That there is none is remembered, for a shorter time.
        """
        self.assertIsNone(self.account("other"))
        self.clock.advance(9)
        self.assertIsNone(self.account("other"))
        self.assertEqual(len(self.source.asked), 1)
        self.source.put(Account("other"))
        self.clock.advance(2)
        self.assertEqual(self.account("other"), Account("other"))

    def test_oneAtATime(self) -> None:
        """
        However many ask for the same, one lookup is under way, and all have its answer.
        """
        self.source.isHeld = True
        waiting = [self.directory.box("acme", "box-1") for _ in range(5)]
        self.assertEqual(self.source.asked, [("acme", "box-1")])
        self.source.release()
        self.assertEqual([self.successResultOf(one) for one in waiting], [BOX] * 5)

    def test_stale(self) -> None:
        """
        While the source is away what was known serves on, for as long as is configured; what is not known does not.
        """
        self.account()
        self.source.isAway = True
        self.clock.advance(101)
        self.assertIs(self.account(), ACME)
        self.failureResultOf(self.directory.account("other"), DirectoryUnavailable)
        self.clock.advance(998)
        self.assertIs(self.account(), ACME)
        self.assertEqual(self.directory.counts.staleHits, 2)
        self.clock.advance(2)
        self.failureResultOf(self.directory.account("acme"), DirectoryUnavailable)

    def test_check(self) -> None:
        """
        It is well as long as everybody could be told of, from what is known if need be; not well for a while after
        somebody could not, unless it has answered since.
        """
        self.account()
        self.assertTrue(self.directory.check().ok)
        self.source.isAway = True
        self.clock.advance(101)
        self.account()
        self.assertEqual(self.directory.check(), (True, "it does not answer, and what is known serves on"))
        self.failureResultOf(self.directory.account("other"), DirectoryUnavailable)
        self.clock.advance(5)
        self.assertFalse(self.directory.check().ok)
        self.clock.advance(6)
        self.assertTrue(self.directory.check().ok)
        self.failureResultOf(self.directory.account("other"), DirectoryUnavailable)
        self.source.isAway = False
        self.assertIsNone(self.account("other"))
        self.assertEqual(self.directory.check(), (True, "it answers when it is asked"))

    def test_holdOff(self) -> None:
        """
        A source that is known to be away is not waited for by everybody: what is known is served at once, and the
        source is tried again a little later.
        """
        self.account()
        self.source.isAway = True
        self.clock.advance(101)
        self.account()
        asked = len(self.source.asked)
        for _ in range(5):
            self.assertIs(self.account(), ACME)
        self.assertEqual(len(self.source.asked), asked)
        self.clock.advance(3)
        self.source.isAway = False
        self.source.put(Account("acme", isActive=False))
        self.assertEqual(self.account(), Account("acme", isActive=False))

    def test_silent(self) -> None:
        """
        A source that never answers is as one that is away.
        """
        self.source.isHeld = True
        waiting = self.directory.account("acme")
        self.clock.advance(19)
        self.assertNoResult(waiting)
        self.clock.advance(2)
        self.failureResultOf(waiting, DirectoryUnavailable)

    def test_unforeseen(self) -> None:
        """
        A source that fails in another way than it may is as one that is away, and its failure is logged.
        """
        source: Any = HandDirectory()
        source.account = lambda name: 1 // 0
        self.failureResultOf(Directory(source, self.clock).account("acme"), DirectoryUnavailable)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_changed(self) -> None:
        """
        What is told to have changed is asked for again, whatever its age; the rest is not.
        """
        self.account()
        self.successResultOf(self.directory.box("acme", "box-1"))
        self.source.put(Box("acme", "box-1", isRevoked=True))
        self.directory.changed(Change("acme", "box-1"))
        box = self.successResultOf(self.directory.box("acme", "box-1"))
        assert box is not None
        self.assertTrue(box.isRevoked)
        self.account()
        self.assertEqual(self.source.asked.count(("acme",)), 1)
        self.directory.changed(Change("acme"))
        self.account()
        self.assertEqual(self.source.asked.count(("acme",)), 2)

    def test_changedAbsent(self) -> None:
        """
        One that was not there may be now.
        """
        self.account("other")
        self.source.put(Account("other"))
        self.directory.changed(Change("other"))
        self.assertEqual(self.account("other"), Account("other"))

    def test_everythingChanged(self) -> None:
        """
        So may be anything.
        """
        self.account()
        self.account("other")
        self.successResultOf(self.directory.box("acme", "box-1"))
        self.directory.changed(Change())
        self.account()
        self.account("other")
        self.successResultOf(self.directory.box("acme", "box-1"))
        self.assertEqual(len(self.source.asked), 6)

    def test_changedIsNotServedStale(self) -> None:
        """
        What is known to have changed is not served while the source is away: it might let in who was revoked.
        """
        self.account()
        self.source.isAway = True
        self.directory.changed(Change("acme"))
        self.failureResultOf(self.directory.account("acme"), DirectoryUnavailable)

    def test_overtaken(self) -> None:
        """
        An answer that was under way when the change was told is not believed.
        """
        self.source.isHeld = True
        waiting = self.directory.account("acme")
        self.source.put(Account("acme", isActive=False))
        self.directory.changed(Change("acme"))
        self.source.release()
        self.assertNoResult(waiting)
        self.source.release()
        self.assertEqual(self.successResultOf(waiting), Account("acme", isActive=False))

    def test_sourceNotices(self) -> None:
        """
        A source may notice by itself; whoever listens is told once nothing of before is served.
        """
        heard: list[tuple[Change, Deferred[Account | None]]] = []
        self.account()
        self.directory.onChange(lambda change: heard.append((change, self.directory.account("acme"))))
        self.source.put(Account("acme", isActive=False))
        self.source.changed(Change("acme"))
        self.assertEqual(heard[0][0], Change("acme"))
        self.assertEqual(self.successResultOf(heard[0][1]), Account("acme", isActive=False))

    def test_bounded(self) -> None:
        """
        The least recently used goes first; names that do not exist drive out none that do.
        """
        for name in ("one", "two", "three"):
            self.source.put(Account(name))
            self.account(name)
        for number in range(20_000):
            self.account(f"none-{number}")
        self.account("one")
        self.source.put(Account("four"))
        self.account("four")
        self.source.asked.clear()
        for name in ("one", "three", "four"):
            self.account(name)
        self.assertEqual(self.source.asked, [])
        self.account("two")
        self.assertEqual(self.source.asked, [("two",)])

    def test_known(self) -> None:
        """
        What was known last is there at once: an account's clouds and fields, or what holds for who is not known.
        """
        self.assertIsNone(self.directory.known("acme"))
        self.assertIs(self.directory.clouds("acme"), Clouds.cloudnext)
        self.assertEqual(self.directory.fieldName("acme", 8), ("GPS_SPEED", "int"))
        self.source.put(Account("acme", clouds=Clouds.both, fields={8: ("OWN", "double")}))
        self.account()
        self.clock.advance(5000)
        self.assertIs(self.directory.clouds("acme"), Clouds.both)
        self.assertEqual(self.directory.fieldName("acme", 8), ("OWN", "double"))
        self.assertIsNone(self.directory.fieldName("acme", 9))

    def test_gone(self) -> None:
        """
        Of an account that is not there any more the last is known: where to tell that its boxes had to go.
        """
        self.source.put(Account("acme", clouds=Clouds.cloudconnect))
        self.account()
        del self.source.accounts["acme"]
        self.directory.changed(Change("acme"))
        self.assertIsNone(self.account())
        self.assertIs(self.directory.clouds("acme"), Clouds.cloudconnect)
        self.source.put(Account("acme", clouds=Clouds.both))
        self.directory.changed(Change("acme"))
        self.account()
        self.assertIs(self.directory.clouds("acme"), Clouds.both)
