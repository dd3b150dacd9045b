"""
Whether a box may come in: the directory's word on its account and on itself, its secret or certificate, and how many of
its account come at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from twisted.internet.defer import Deferred

from binaryserver.admission.passwords import CheckerBusy, PasswordChecker
from binaryserver.directory.cache import Directory
from binaryserver.directory.records import Account, Box
from binaryserver.errors import DirectoryUnavailable, StoreError
from binaryserver.interfaces import ISessionStore
from binaryserver.model import Draw
from binaryserver.session.reasons import Reason


class Applicant(NamedTuple):
    """
    Who wants to come in.

    @ivar account: as it says; empty: it does not
    @ivar secret: L{None}: it gave none
    @ivar certificate: SHA-256 of its client certificate, whose CN is C{asset} and whose O is C{account}, as hex digits;
        empty: it has none
    @ivar isSecure: it comes over TLS
    @ivar peer: the IP address that it comes from; empty: it has none
    """

    account: str
    asset: str
    secret: bytes | None
    certificate: str
    isSecure: bool
    peer: str = ""

    def __repr__(self) -> str:
        # Without the secret: it may come into a log.
        return f"Applicant({self.account!r}, {self.asset!r})"


class Admitted(NamedTuple):
    """
    Who may come in.

    @ivar box: L{None}: the account admits any
    """

    account: Account
    box: Box | None


class Refusal(NamedTuple):
    """
    Why somebody may not come in. Which part was wrong is told to operators, and to nobody else.

    @ivar reason: L{None}: the fault is ours, not its
    @ivar isForNow: it may try again: something of ours is away, or its account has had its share
    @ivar isBox: the directory has a box of that name
    """

    reason: Reason | None
    detail: str
    isForNow: bool = False
    isBox: bool = False


class Admission:
    """
    Of one process.
    """

    def __init__(
        self,
        directory: Directory,
        store: ISessionStore,
        passwords: PasswordChecker,
        obstacle: Callable[[Account], str] = lambda account: "",
    ) -> None:
        """
        @param obstacle: why this gateway cannot serve an account as its terms demand; empty: it can
        """
        self._obstacle = obstacle
        self._directory = directory
        self._store = store
        self._passwords = passwords

    def admit(self, applicant: Applicant) -> Deferred[Admitted | Refusal]:
        """
        May this box come in?
        """
        return Deferred.fromCoroutine(self._admit(applicant))

    async def _admit(self, applicant: Applicant) -> Admitted | Refusal:
        name = applicant.account or self._directory.defaultAccount
        try:
            account = await self._directory.account(name) if name else None
            box = await self._directory.box(name, applicant.asset) if account is not None else None
            refusal = await self._judge(applicant, account, box)
        except DirectoryUnavailable as error:
            return Refusal(None, f"the directory: {error}", True)
        except CheckerBusy as error:
            return Refusal(None, str(error), True)
        if refusal is None:
            assert account is not None
            obstacle = self._obstacle(account)
            refusal = Refusal(None, obstacle, True) if obstacle else await self._share(account)
        if refusal is None:
            assert account is not None
            return Admitted(account, None if account.admitsAnyBox else box)
        return refusal._replace(isBox=box is not None and account is not None and not account.admitsAnyBox)

    async def _judge(self, applicant: Applicant, account: Account | None, box: Box | None) -> Refusal | None:
        """
        Everybody who gave a secret has it checked, known or not: from how long it takes nothing is to be learnt.
        """
        if account is not None and account.admitsAnyBox:
            return barred(account, None, applicant.isSecure, applicant.certificate)
        # Its account's also if there is no such box: hashes differ in what they cost.
        hashed = (box.secretHash if box is not None else "") or (account.secretHash if account is not None else "")
        proved = bool(applicant.certificate)
        if applicant.secret is not None and not proved:
            proved = await self._passwords.check(hashed, applicant.secret, applicant.peer)
        if account is None:
            return Refusal(Reason.authFailedAccount, "no such account")
        if not account.isActive:
            return Refusal(Reason.authFailedAccount, "the account is not active")
        if box is None:
            return Refusal(Reason.authFailedAsset, "the account has no such box")
        if not proved:
            why = "no secret" if applicant.secret is None else "wrong secret" if hashed else "it has no secret to check"
            return Refusal(Reason.authFailedAsset, why)
        return barred(account, box, applicant.isSecure, applicant.certificate)

    async def _share(self, account: Account) -> Refusal | None:
        rate = account.limits.connects
        if rate:
            try:
                (granted,) = await self._store.draw([Draw(account.name, "connects", 1.0, rate, 1.0)])
            except StoreError as error:
                return Refusal(None, f"session store: {error}", True)
            if granted < 1:
                return Refusal(Reason.authFailedAccount, f"more than {rate:g} arrivals a second of its account", True)
        return None


def barred(account: Account, box: Box | None, isSecure: bool, certificate: str) -> Refusal | None:
    """
    Why a box may not be here though it proved who it is; L{None}: it may.

    @param box: L{None}: its account admits any
    @param certificate: as in L{Applicant}
    """
    if not account.isActive:
        return Refusal(Reason.authFailedAccount, "the account is not active")
    if box is not None and box.isRevoked:
        return Refusal(Reason.authFailedAsset, "the box is revoked")
    if account.requiresTls and not isSecure:
        return Refusal(Reason.authFailedTransport, "its account requires TLS")
    if account.requiresCertificate and not certificate:
        return Refusal(Reason.authFailedTransport, "its account requires a client certificate")
    if box is not None and box.certificate and certificate and certificate != box.certificate:
        return Refusal(Reason.authFailedAsset, "the certificate is not the one that the directory names")
    return None
