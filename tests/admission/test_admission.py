"""
Tests for L{binaryserver.admission.admission}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from argon2 import PasswordHasher
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.admission.admission import Admission, Admitted, Applicant, Refusal
from binaryserver.admission.passwords import PasswordChecker
from binaryserver.directory.cache import Directory
from binaryserver.directory.records import Account, AccountLimits, Box
from binaryserver.errors import StoreUnavailable
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.reasons import Reason
from tests.admission.handdirectory import HandDirectory

HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
ACME = Account("acme", secretHash=HASHER.hash("the account's"))
BOX = Box("acme", "box-1", secretHash=HASHER.hash("its own"))
PLAIN = Box("acme", "box-2")
DIGEST = "ab" * 32


class AdmissionTests(SynchronousTestCase):
    """
    Who comes in, and who does not.
    """

    def setUp(self) -> None:
        """
        One account, one box with a secret of its own and one without.
        """
        self.clock: Any = MemoryReactorClock()
        self.source = HandDirectory(ACME, BOX, PLAIN)
        self.store = MemorySessionStore("memory:", BackEndContext(self.clock, "--sessions"))
        self.obstacle = ""
        self.checked: list[bytes] = []
        directory = Directory(self.source, self.clock)
        self.directory = directory
        checker = PasswordChecker(self.inThread, 5)
        self.admission = Admission(directory, self.store, checker, lambda account: self.obstacle)

    def inThread(self, function: Any, *arguments: Any) -> Deferred[Any]:
        """
        A thread that works at once, and counts.
        """
        self.checked.append(arguments[1])
        return maybeDeferred(function, *arguments)

    def admit(
        self,
        account: str = "acme",
        asset: str = "box-1",
        secret: bytes | None = b"its own",
        certificate: str = "",
        isSecure: bool = False,
    ) -> Admitted | Refusal:
        """
        Apply.
        """
        return self.successResultOf(self.admission.admit(Applicant(account, asset, secret, certificate, isSecure)))

    def assertRefused(self, answer: Admitted | Refusal, reason: Reason | None, isForNow: bool = False) -> None:
        """
        It was refused for this reason.
        """
        assert isinstance(answer, Refusal), answer
        self.assertEqual((answer.reason, answer.isForNow), (reason, isForNow), answer.detail)

    def put(self, *known: Account | Box) -> None:
        """
        Change the directory.
        """
        self.source.put(*known)
        self.directory = Directory(self.source, self.clock)
        checker = PasswordChecker(self.inThread, 5)
        self.admission = Admission(self.directory, self.store, checker, lambda account: self.obstacle)

    def test_secret(self) -> None:
        """
        A box's own secret lets it in, and where it has none its account's does.
        """
        self.assertEqual(self.admit(), Admitted(ACME, BOX))
        self.assertEqual(self.admit(asset="box-2", secret=b"the account's"), Admitted(ACME, PLAIN))
        self.assertRefused(self.admit(secret=b"the account's"), Reason.authFailedAsset)
        self.assertRefused(self.admit(secret=b""), Reason.authFailedAsset)
        self.assertRefused(self.admit(secret=None), Reason.authFailedAsset)

    def test_noSecretAnywhere(self) -> None:
        """
        Where neither has a secret, none lets in.
        """
        self.put(replace(ACME, secretHash=""))
        for secret in (None, b"", b"anything"):
            self.assertRefused(self.admit(asset="box-2", secret=secret), Reason.authFailedAsset)

    def test_unknown(self) -> None:
        """
        Unknown ones are refused; whoever gave a secret has it checked all the same, so that the time that it takes
        tells nothing.
        """
        self.assertRefused(self.admit(account="other"), Reason.authFailedAccount)
        self.assertRefused(self.admit(account=""), Reason.authFailedAccount)
        self.assertRefused(self.admit(asset="box-3"), Reason.authFailedAsset)
        self.assertEqual(len(self.checked), 3)

    def test_unknownAsset(self) -> None:
        """
        A box that there is not has its secret checked against what the account's boxes have, which may cost more than
        others' hashes: right as it may be, it does not let in.
        """
        hashes: list[str] = []

        def inThread(function: Any, secretHash: str, secret: bytes) -> Deferred[Any]:
            hashes.append(secretHash)
            return maybeDeferred(function, secretHash, secret)

        self.inThread = inThread  # type: ignore[method-assign]
        self.put()
        for secret in (b"wrong", b"the account's"):
            self.assertRefused(self.admit(asset="box-3", secret=secret), Reason.authFailedAsset)
        self.assertEqual(hashes, [ACME.secretHash] * 2)

    def test_inactive(self) -> None:
        """
        A box that is revoked, or whose account is not active, is refused, right as its secret is.
        """
        self.put(replace(BOX, isRevoked=True))
        self.assertRefused(self.admit(), Reason.authFailedAsset)
        self.put(BOX, replace(ACME, isActive=False))
        self.assertRefused(self.admit(), Reason.authFailedAccount)

    def test_transport(self) -> None:
        """
        An account may require TLS, or a certificate: told only to who proved to be a box of it.
        """
        self.put(replace(ACME, requiresTls=True))
        self.assertRefused(self.admit(secret=b"wrong"), Reason.authFailedAsset)
        self.assertRefused(self.admit(), Reason.authFailedTransport)
        self.assertIsInstance(self.admit(isSecure=True), Admitted)
        self.put(replace(ACME, requiresCertificate=True))
        self.assertRefused(self.admit(isSecure=True), Reason.authFailedTransport)
        self.assertIsInstance(self.admit(isSecure=True, secret=None, certificate=DIGEST), Admitted)

    def test_certificate(self) -> None:
        """
        A certificate lets in without a secret; where the directory names one, only that.
        """
        self.assertIsInstance(self.admit(secret=None, certificate=DIGEST, isSecure=True), Admitted)
        self.put(replace(BOX, certificate="cd" * 32))
        self.assertRefused(self.admit(secret=None, certificate=DIGEST, isSecure=True), Reason.authFailedAsset)
        self.assertIsInstance(self.admit(secret=None, certificate="cd" * 32, isSecure=True), Admitted)
        self.assertEqual(self.checked, [])

    def test_anyBox(self) -> None:
        """
        An account for development admits what names it.
        """
        self.put(Account("dev", admitsAnyBox=True))
        self.assertEqual(self.admit("dev", "whoever", None), Admitted(Account("dev", admitsAnyBox=True), None))

    def test_away(self) -> None:
        """
        What is ours to mend is no fault of the box's.
        """
        self.source.isAway = True
        self.assertRefused(self.admit(), None, True)

    def test_busy(self) -> None:
        """
        So are too many secrets at once.
        """
        self.inThread = lambda function, *arguments: Deferred()  # type: ignore[method-assign]
        self.put()
        for number in range(5):
            self.assertNoResult(self.admission.admit(Applicant("acme", "box-1", b"%d" % number, "", False)))
        self.assertRefused(self.admit(), None, True)

    def test_busyAddress(self) -> None:
        """
        But not those of one address for who comes from another.
        """
        self.inThread = lambda function, *arguments: Deferred()  # type: ignore[method-assign]
        self.put()
        for number in range(5):
            self.admission.admit(Applicant("acme", "box-1", b"%d" % number, "", False, "192.0.2.1"))
        other = Applicant("acme", "box-1", b"its own", "", False, "192.0.2.2")
        self.assertNoResult(self.admission.admit(other))

    def test_obstacle(self) -> None:
        """
        An account that this gateway cannot serve as it demands is not served otherwise.
        """
        self.obstacle = "there is no key"
        self.assertRefused(self.admit(), None, True)

    def test_arrivals(self) -> None:
        """
        More arrivals of an account than it may have are to come back later; wrong secrets do not count.
        """
        self.put(replace(ACME, limits=AccountLimits(connects=2.0)))
        for _ in range(10):
            self.assertRefused(self.admit(secret=b"wrong"), Reason.authFailedAsset)
        for _ in range(4):
            self.assertIsInstance(self.admit(), Admitted)
        self.assertRefused(self.admit(), Reason.authFailedAccount, True)
        self.clock.advance(0.3)
        self.assertRefused(self.admit(), Reason.authFailedAccount, True)
        self.clock.advance(0.3)
        self.assertIsInstance(self.admit(), Admitted)

    def test_storeAway(self) -> None:
        """
        Whether it may come cannot be told while the session store is away, which would not give it a link anyway.
        """
        self.put(replace(ACME, limits=AccountLimits(connects=2.0)))
        self.store.draw = lambda draws: fail(StoreUnavailable("away"))  # type: ignore[method-assign]
        self.assertRefused(self.admit(), None, True)
