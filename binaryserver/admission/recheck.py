"""
Links that are there when the directory changes: those that may not be here any more end, the others go on by the new
terms.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeAlias

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.admission.admission import Refusal, barred
from binaryserver.directory.cache import Directory
from binaryserver.directory.records import Account, Box, Change
from binaryserver.errors import DirectoryUnavailable
from binaryserver.model import BoxKey
from binaryserver.session.reasons import Ending, Reason

if TYPE_CHECKING:
    from binaryserver.session.link import BoxLink
    from binaryserver.session.registry import Registry

_AT_ONCE = 16
"""Lookups of one line that are under way."""

_A_TURN = 100
"""Checks that one line begins in one turn of the reactor, at most: many are answered at once, by what is known."""

_TURN_TIME = 0.02
"""s after which it begins none in this turn any more: an account's means to look for its links among all."""

_RETRY = 1.0

_CERTIFICATES = 200
"""Looked at in one turn of the reactor, each for some 40 us."""

Check: TypeAlias = tuple[Callable[[str, str], Deferred[None]], str, str]
"""What is to be called, with an account and an asset."""


class _Line:
    """
    Checks that wait for their turn, each once. What fails as the directory is away is done again.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, isHeldUp: bool) -> None:
        """
        @param isHeldUp: while some are to be done again, no other begins
        """
        self._clock = clock
        self._isHeldUp = isHeldUp
        # Of this kind since taking the first of a plain dict, again and again, costs the square of its size.
        self._due: OrderedDict[Check, None] = OrderedDict()
        self._failed: dict[Check, None] = {}
        self._underWay = 0
        self._isGoing = False
        # The end of this turn of the reactor, how many began in it, and until when they may.
        self._turn: IDelayedCall | None = None
        self._begun = 0
        self._until = 0.0
        self._retry: IDelayedCall | None = None
        self._isStopped = False

    def add(self, checks: Iterable[Check]) -> None:
        """
        Do these too.
        """
        if not self._isStopped:
            self._due.update(dict.fromkeys(checks))
            self._goOn()

    def stop(self) -> None:
        """
        Begin nothing any more.
        """
        self._isStopped = True
        self._due.clear()
        self._failed.clear()
        for timer in (self._turn, self._retry):
            if timer is not None:
                timer.cancel()
        self._turn = self._retry = None

    def _goOn(self) -> None:
        if self._isGoing:
            # A check that is answered at once must not begin the next within itself.
            return
        self._isGoing = True
        while (
            self._due
            and self._underWay < _AT_ONCE
            and not (self._isHeldUp and self._failed)
            and self._hasTimeInThisTurn()
        ):
            check, _ = self._due.popitem(last=False)
            self._begun += 1
            self._underWay += 1
            call, account, asset = check
            maybeDeferred(call, account, asset).addErrback(self._notChecked, check).addBoth(self._checked)
        self._isGoing = False

    def _hasTimeInThisTurn(self) -> bool:
        now = self._clock.seconds()
        if self._turn is None:
            self._turn = self._clock.callLater(0, self._nextTurn)
            self._begun, self._until = 0, now + _TURN_TIME
            return True
        return self._begun < _A_TURN and now < self._until

    def _nextTurn(self) -> None:
        self._turn = None
        self._goOn()

    def _checked(self, _: object) -> None:
        self._underWay -= 1
        self._goOn()

    def _notChecked(self, failure: Failure, check: Check) -> None:
        if not failure.check(DirectoryUnavailable):
            self.log.failure("links could not be checked, in an unforeseen way", failure)
        elif not self._isStopped:
            # They stay meanwhile: whoever is not known to be revoked is not cut off.
            self._failed[check] = None
            if self._retry is None:
                self._retry = self._clock.callLater(_RETRY, self._again)

    def _again(self) -> None:
        self._retry = None
        failed, self._failed = self._failed, {}
        self.add(failed)


class Recheck:
    """
    Of one process. What a notice names does not wait for the rest: neither behind all boxes, when those are checked,
    nor behind what the directory does not answer.

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
        # What is named; the links of accounts that are others now; and all links.
        self._named = _Line(clock, False)
        self._ofAccounts = _Line(clock, False)
        self._all = _Line(clock, True)
        self._lines = (self._named, self._ofAccounts, self._all)
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
        for line in self._lines:
            line.stop()
        if self._loop.running:
            self._loop.stop()

    def everything(self) -> None:
        """
        Check every link, by what the directory says once what is known is not fresh any more.
        """
        self._changed(Change())

    def arrived(self, link: BoxLink, version: int) -> None:
        """
        A box is here: whatever has changed while it was on its way found no link of it.

        @param version: the directory's, before anything was asked of it about the box
        """
        if version != self._directory.version:
            self._named.add([(self._checkWhole, *link.box.key)])
        self._checkCertificate(link)

    def _changed(self, change: Change) -> None:
        if self._isStopped:
            return
        if not change.account:
            check = self._checkWhole
            self._all.add([(check, *key) for key in self._registry.boxes])
        elif not change.asset:
            self._named.add([(self._checkAccount, change.account, "")])
        else:
            self._named.add([(self._checkBox, change.account, change.asset)])

    def _links(self) -> list[BoxLink]:
        return [link for link in self._registry.links if link.isBoxOpen]

    def _linkOf(self, account: str, asset: str) -> BoxLink | None:
        box = self._registry.boxes.get(BoxKey(account, asset))
        link = None if box is None else box.link
        return link if link is not None and link.isBoxOpen else None

    def _checkAccount(self, name: str, _: str) -> Deferred[None]:
        """
        Look an account up once, and then at its links.
        """

        def known(_: Account | None) -> None:
            check = self._checkTerms
            boxes = self._registry.boxes
            self._ofAccounts.add([(check, account, asset) for account, asset in boxes if account == name])

        return self._directory.account(name).addCallback(known)

    def _checkTerms(self, account: str, asset: str) -> Deferred[None]:
        """
        A link by its account.
        """

        def known(found: Account | None) -> None:
            link = self._linkOf(account, asset)
            if link is not None:
                self._apply(link, found)

        if self._linkOf(account, asset) is None:
            return succeed(None)
        return self._directory.account(account).addCallback(known)

    def _checkWhole(self, account: str, asset: str) -> Deferred[None]:
        """
        A link by its account and by its box.
        """
        return self._checkTerms(account, asset).addCallback(lambda _: self._checkBox(account, asset))

    def _apply(self, link: BoxLink, account: Account | None) -> None:
        if account is None or not account.isActive:
            self._end(link, Refusal(Reason.authFailedAccount, "its account is not active any more"))
            return
        before, link.account = link.account, account
        if before.admitsAnyBox and not account.admitsAnyBox:
            self._end(link, Refusal(Reason.authFailedAsset, "it has not proved who it is, as its account demands now"))
            return
        if account is not before and account != before:
            link.accountChanged()
        self._judge(link, account)

    def _judge(self, link: BoxLink, account: Account) -> None:
        """
        By what is known of its box.
        """
        refusal = barred(account, link.directoryBox, link.isSecure, link.certificateDigest)
        if refusal is not None:
            self._end(link, refusal)

    def _checkBox(self, account: str, asset: str) -> Deferred[None]:
        """
        A link by its box.
        """
        link = self._linkOf(account, asset)
        if link is None or link.account.admitsAnyBox:
            return succeed(None)

        def known(box: Box | None) -> None:
            link = self._linkOf(account, asset)
            if link is None:
                return
            if box is None:
                self._end(link, Refusal(Reason.authFailedAsset, "the box is not in the directory any more"))
                return
            link.directoryBox = box
            self._judge(link, link.account)

        return self._directory.box(account, asset).addCallback(known)

    def certificatesChanged(self) -> None:
        """
        Certificate authorities or revocation lists were read again: end the links whose certificate is not good any
        more.
        """
        self._checkCertificates(iter(self._links()))

    def _checkCertificates(self, links: Iterator[BoxLink]) -> None:
        for link in islice(links, _CERTIFICATES):
            self._checkCertificate(link)
        following = next(links, None)
        if following is not None:
            self._clock.callLater(0, self._checkCertificates, chain((following,), links))

    def _checkCertificate(self, link: BoxLink) -> None:
        try:
            if link.isBoxOpen and link.isCertificateRevoked:
                self._end(link, Refusal(Reason.authFailedAsset, "its certificate is revoked"))
        except Exception:
            # The others are to be looked at all the same.
            self.log.failure("a link's certificate could not be checked, in an unforeseen way")
            link.abort()

    def _end(self, link: BoxLink, refusal: Refusal) -> None:
        self.ended += 1
        assert refusal.reason is not None
        self.log.info("{box}: link closed: {why}", box=link.envelope.box.asset, why=refusal.detail)
        link.end(Ending(refusal.reason, refusal.detail))
