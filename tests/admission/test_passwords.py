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
