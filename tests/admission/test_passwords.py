"""
Tests for L{binaryserver.admission.passwords}.
"""

from __future__ import annotations

from typing import Any

from argon2 import PasswordHasher
from argon2.low_level import Type
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.admission.passwords import CheckerBusy, PasswordChecker, verify

SECRET = b"correct horse"
HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
HASHED = HASHER.hash(SECRET)


class VerifyTests(SynchronousTestCase):
    """
    One secret, one hash.
    """

    def test_kinds(self) -> None:
        """
        Of argon2's kinds it is argon2id.
        """
        for kind in Type:
            hashed = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1, type=kind).hash(SECRET)
            self.assertEqual(verify(hashed, SECRET), kind is Type.ID)
            self.assertFalse(verify(hashed, SECRET + b"!"), kind)

    @given(st.text(), st.binary())
    @example("$argon2id$v=19$m=64,t=1,p=1$AAAA$AAAA", b"")
    @example("$argon2id$", b"")
    @example("$argon2id$v=19$m=64,t=1,p=1$$", b"")
    def test_anything(self, hashed: str, secret: bytes) -> None:
        """
        What is no hash is nobody's.
        """
        self.assertFalse(verify(hashed, secret))


class PasswordCheckerTests(SynchronousTestCase):
    """
    Many of them.
    """

    def setUp(self) -> None:
        """
        Threads that the test lets go on.
        """
        self.calls: list[tuple[Deferred[bool], tuple[Any, ...]]] = []
        self.checker = PasswordChecker(self.inThread, 2)

    def inThread(self, function: Any, *arguments: Any) -> Deferred[bool]:
        """
        Queue a call.
        """
        done: Deferred[bool] = Deferred()
        self.calls.append((done, (function, *arguments)))
        return done

    def goOn(self) -> None:
        """
        Make the calls that wait.
        """
        calls, self.calls = self.calls, []
        for done, (function, *arguments) in calls:
            done.callback(function(*arguments))

    def check(self, hashed: str, secret: bytes) -> bool:
        """
        Check, and let the thread do it.
        """
        checked = self.checker.check(hashed, secret)
        self.goOn()
        return self.successResultOf(checked)

    def test_right(self) -> None:
        """
        The right secret is right, and remembered: it takes no thread the next time.
        """
        self.assertTrue(self.check(HASHED, SECRET))
        self.assertTrue(self.successResultOf(self.checker.check(HASHED, SECRET)))

    def test_wrong(self) -> None:
        """
        A wrong one is wrong, whatever was right before, and as often as it comes; a new hash asks anew.
        """
        self.check(HASHED, SECRET)
        self.assertFalse(self.check(HASHED, b"wrong"))
        self.assertFalse(self.check(HASHED, b"wrong"))
        self.assertNoResult(self.checker.check(HASHER.hash(b"another"), SECRET))

    def test_nobody(self) -> None:
        """
        Where there is no hash a thread works all the same, and no secret is right.
        """
        for secret in (b"", SECRET):
            checked = self.checker.check("", secret)
            self.assertNoResult(checked)
            self.goOn()
            self.assertFalse(self.successResultOf(checked))

    def test_bounded(self) -> None:
        """
        No more wait than may; those that are done make room.
        """
        first = [self.checker.check(HASHED, b"%d" % number) for number in range(2)]
        self.failureResultOf(self.checker.check(HASHED, b"3"), CheckerBusy)
        self.goOn()
        self.assertEqual([self.successResultOf(one) for one in first], [False, False])
        self.assertFalse(self.check(HASHED, b"4"))

    def test_failing(self) -> None:
        """
        A check that fails makes room, too.
        """
        checked = self.checker.check(HASHED, SECRET)
        self.calls.pop()[0].errback(ZeroDivisionError())
        self.failureResultOf(checked, ZeroDivisionError)
        self.assertEqual(self.checker.waiting, 0)


class TurnsTests(SynchronousTestCase):
    """
    More secrets than threads, of which there is one.
    """

    def setUp(self) -> None:
        """
        A thread that the test lets go on.
        """
        self.calls: list[tuple[Deferred[bool], bytes]] = []
        self.checker = PasswordChecker(self.inThread, 6, 1)

    def inThread(self, function: Any, secretHash: str, secret: bytes) -> Deferred[bool]:
        """
        Begin.
        """
        done: Deferred[bool] = Deferred()
        self.calls.append((done, secret))
        return done

    def goOn(self) -> list[bytes]:
        """
        Do all, one after the other.

        @return: the secrets, in the order in which they were checked
        """
        done: list[bytes] = []
        while self.calls:
            ((call, secret),) = self.calls
            self.calls.clear()
            done.append(secret)
            call.callback(secret == SECRET)
        return done

    def test_turns(self) -> None:
        """
        Addresses take turns: who gave many does not keep those of others waiting.
        """
        for number in range(4):
            self.checker.check(HASHED, b"flood %d" % number, "192.0.2.1")
        checked = self.checker.check(HASHED, SECRET, "192.0.2.2")
        self.assertEqual(self.goOn(), [b"flood 0", b"flood 1", SECRET, b"flood 2", b"flood 3"])
        self.assertTrue(self.successResultOf(checked))
        self.assertEqual(self.checker.waiting, 0)

    def test_room(self) -> None:
        """
        Where there is no room for another, it is made by whoever has the most: that is refused which he gave last.
        """
        flood = [self.checker.check(HASHED, b"%d" % number, "192.0.2.1") for number in range(6)]
        self.failureResultOf(self.checker.check(HASHED, b"6", "192.0.2.1"), CheckerBusy)
        checked = self.checker.check(HASHED, SECRET, "192.0.2.2")
        self.failureResultOf(flood.pop(), CheckerBusy)
        self.assertEqual(self.checker.waiting, 6)
        self.goOn()
        self.assertTrue(self.successResultOf(checked))
        self.assertEqual([self.successResultOf(one) for one in flood], [False] * 5)

    def test_noRoom(self) -> None:
        """
        Of many that have the same, nobody has to go for one who would have no less.
        """
        waiting = [self.checker.check(HASHED, b"%d" % number, f"192.0.2.{number}") for number in range(6)]
        self.failureResultOf(self.checker.check(HASHED, SECRET, "192.0.2.9"), CheckerBusy)
        self.goOn()
        self.assertEqual([self.successResultOf(one) for one in waiting], [False] * 6)

    def test_network(self) -> None:
        """
        What one subscriber has of IPv6 is one address.
        """
        flood = [self.checker.check(HASHED, b"%d" % number, f"2001:db8:0:1::{number}") for number in range(6)]
        self.failureResultOf(self.checker.check(HASHED, b"6", "2001:db8:0:1::6"), CheckerBusy)
        self.assertNoResult(self.checker.check(HASHED, SECRET, "2001:db8:0:2::1"))
        self.failureResultOf(flood[-1], CheckerBusy)

    def test_sameSecret(self) -> None:
        """
        Boxes of one account that come together with its secret have it checked once.
        """
        checked = [self.checker.check(HASHED, SECRET) for _ in range(5)]
        self.assertEqual(self.goOn(), [SECRET])
        self.assertEqual([self.successResultOf(one) for one in checked], [True] * 5)
        self.assertEqual(self.checker.waiting, 0)
