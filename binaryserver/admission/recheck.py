"""
Links that are there when the directory changes: those that may not be here any more end, the others go on by the new
terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.admission.admission import Refusal, barred
from binaryserver.directory.cache import Directory
from binaryserver.directory.records import Account, Change
from binaryserver.errors import DirectoryUnavailable
from binaryserver.model import BoxKey
from binaryserver.session.reasons import Ending, Reason

if TYPE_CHECKING:
    from binaryserver.session.arrival import ArrivingLink
    from binaryserver.session.registry import Registry

_AT_ONCE = 16
"""Lookups under way."""

_RETRY = 1.0

_CERTIFICATES = 200
"""Looked at in one turn of the reactor, each for some 40 us."""


class Recheck:
    """
    Of one process.

    @ivar ended: links that were ended by it, since the start
    """

    log = Logger()

    def __init__(self, directory: Directory, registry: Registry, clock: IReactorTime, period: float) -> None:
        """
        @param period: s after which every link is checked again though nobody told of a change: a notice may be lost
        """
        self._directory = directory
        self._registry = registry
        self._clock = clock
        self.ended = 0
        # Of accounts (asset empty) and boxes, in the order in which they are to be looked at.
        self._due: dict[tuple[str, str], None] = {}
        self._underWay = 0
        self._later: IDelayedCall | None = None
        self._isStopped = False
        self._loop = LoopingCall(self.everything)
        self._loop.clock = clock
        self._period = period
        directory.onChange(self._changed)

    def start(self) -> None:
        """
        Begin.
        """
        self._loop.start(self._period, now=False)

    def stop(self) -> None:
        """
        End.
        """
        self._isStopped = True
        self._due.clear()
        if self._loop.running:
            self._loop.stop()
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def everything(self) -> None:
        """
        Check every link, by what the directory says once what is known is not fresh any more.
        """
        self._changed(Change())

    def arrived(self, link: ArrivingLink, version: int) -> None:
        """
        A box is here: whatever has changed while it was on its way found no link of it.

        @param version: the directory's, when the box was let in
        """
        if version != self._directory.version:
            account, asset = link.box.key
            self._due[account, ""] = None
            self._due[account, asset] = None
            self._goOn()
        self._checkCertificate(link)

    def _changed(self, change: Change) -> None:
        if self._isStopped:
            return
        if not change.account:
            # Accounts first: there are fewer.
            keys = [link.box.key for link in self._links()]
            self._due.update(dict.fromkeys((key.account, "") for key in keys))
            self._due.update(dict.fromkeys((key.account, key.asset) for key in keys))
        else:
            self._due[change.account, change.asset] = None
        self._goOn()

    def _links(self) -> list[ArrivingLink]:
        return [link for link in self._registry.links if link.isBoxOpen]  # type: ignore[misc]

    def _goOn(self) -> None:
        while self._due and self._underWay < _AT_ONCE and self._later is None:
            account, asset = next(iter(self._due))
            del self._due[account, asset]
            if asset and self._linkOf(account, asset) is None:
                continue
            self._underWay += 1
            self._check(account, asset).addBoth(self._checked)

    def _linkOf(self, account: str, asset: str) -> ArrivingLink | None:
        box = self._registry.boxes.get(BoxKey(account, asset))
        link = None if box is None else box.link
        return link if link is not None and link.isBoxOpen else None  # type: ignore[return-value]

    def _checked(self, result: object) -> None:
        self._underWay -= 1
        self._goOn()

    def _check(self, account: str, asset: str) -> Deferred[None]:
        def failed(failure: Failure) -> None:
            if not failure.check(DirectoryUnavailable):
                self.log.failure("links could not be checked, in an unforeseen way", failure)
            elif not self._isStopped:
                # They stay meanwhile: whoever is not known to be revoked is not cut off.
                self._due[account, asset] = None
                if self._later is None:
                    self._later = self._clock.callLater(_RETRY, self._tryAgain)

        checked = self._checkBox(account, asset) if asset else self._checkAccount(account)
        return checked.addErrback(failed)

    def _tryAgain(self) -> None:
        self._later = None
        self._goOn()

    def _checkAccount(self, name: str) -> Deferred[None]:
        def known(account: Account | None) -> None:
            for link in self._links():
                if link.box.key.account == name:
                    self._apply(link, account)

        return self._directory.account(name).addCallback(known)

    def _apply(self, link: ArrivingLink, account: Account | None) -> None:
        if account is None or not account.isActive:
            self._end(link, Refusal(Reason.authFailedAccount, "its account is not active any more"))
            return
        if account is not link.account:
            link.account = account
            link.accountChanged()
        self._judge(link, account)

    def _judge(self, link: ArrivingLink, account: Account) -> None:
        """
        By its account alone: of its box nothing is known to have changed.
        """
        box = link.directoryBox
        if box is not None:
            refusal = barred(account, box, link.isSecure, link.certificateDigest)
            if refusal is not None:
                self._end(link, refusal)

    def _checkBox(self, account: str, asset: str) -> Deferred[None]:
        link = self._linkOf(account, asset)
        if link is None or link.account.admitsAnyBox:
            return succeed(None)

        def known(box: object) -> None:
            link = self._linkOf(account, asset)
            if link is None:
                return
            if box is None:
                self._end(link, Refusal(Reason.authFailedAsset, "the box is not in the directory any more"))
                return
            link.directoryBox = box  # type: ignore[assignment]
            self._judge(link, link.account)

        return self._directory.box(account, asset).addCallback(known)

    def certificatesChanged(self) -> None:
        """
        Certificate authorities or revocation lists were read again: end the links whose certificate is not good any
        more.
        """
        self._checkCertificates(iter(self._links()))

    def _checkCertificates(self, links: Iterator[ArrivingLink]) -> None:
        for link in islice(links, _CERTIFICATES):
            self._checkCertificate(link)
        following = next(links, None)
        if following is not None:
            self._clock.callLater(0, self._checkCertificates, chain((following,), links))

    def _checkCertificate(self, link: ArrivingLink) -> None:
        if link.isBoxOpen and link.isCertificateRevoked:
            self._end(link, Refusal(Reason.authFailedAsset, "its certificate is revoked"))

    def _end(self, link: ArrivingLink, refusal: Refusal) -> None:
        self.ended += 1
        assert refusal.reason is not None
        self.log.info("{box}: link closed: {why}", box=link.envelope.box.asset, why=refusal.detail)
        link.end(Ending(refusal.reason, refusal.detail))
