"""
What a TLS listener shows and trusts, made of files, and anew when they change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IOpenSSLServerConnectionCreator
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from binaryserver.endpoints.errors import EndpointError
from binaryserver.endpoints.pemfiles import CredentialFiles, Credentials, Stamp, loadCredentials
from binaryserver.endpoints.tlscontext import TICKET_LIFETIME, Contexts, makeContexts, opensslReason
from binaryserver.endpoints.trust import Lineage, Trust

__all__ = ["CredentialFiles", "ReloadingCredentials", "opensslReason"]

POLL_INTERVAL = 1.0
"""s between looks at the files."""


@dataclass(frozen=True, slots=True)
class _InUse:
    """
    What was made of one state of the files.
    """

    credentials: Credentials
    contexts: Contexts
    trust: Trust
    expiries: list[tuple[datetime, str]]


@dataclass(frozen=True, slots=True)
class _Look:
    """
    What a look at the files found.

    @ivar made: L{None}: they are as they were, or cannot be used
    @ivar error: why they cannot
    """

    stamps: list[Stamp]
    made: _InUse | None = None
    error: EndpointError | None = None


@dataclass(slots=True)
class HandshakeCounts:
    """
    TLS handshakes since the start.

    @ivar done: let in
    @ivar failed: broken off by either side, too slow, or with a certificate that may not come in
    """

    done: int = 0
    failed: int = 0


@implementer(IOpenSSLServerConnectionCreator)
class ReloadingCredentials:
    """
    Gives every new link what the files hold now. Links that are open keep what they began with; whoever has to end some
    of them asks to be told (L{onReload}) and looks at each (L{isRevoked}).

    @ivar handshakes: what became of those that used them; counted by the links
    """

    log = Logger()

    def __init__(
        self,
        files: CredentialFiles,
        reactor: Any,
        inThread: Callable[..., Deferred[Any]] | None = None,
    ) -> None:
        """
        @param inThread: calls what blocks; the reactor's threads by default
        @raise EndpointError: see L{loadCredentials}
        """
        self.files = files
        self.handshakes = HandshakeCounts()
        self._clock = reactor
        self._inThread = inThread or (lambda *call: deferToThreadPool(reactor, reactor.getThreadPool(), *call))
        self._lineage = Lineage()
        self._told: list[Callable[[], None]] = []
        self._timer: IDelayedCall | None = None
        self._isRunning = False
        self._expired: frozenset[str] = frozenset()
        self._seen = files.stamps()
        self._use(self._make(loadCredentials(files)))

    # For links.

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """
        See L{IOpenSSLServerConnectionCreator.serverConnectionForTLS}.
        """
        return SSL.Connection(self._inUse.contexts.initial, None)

    def refusal(self, connection: SSL.Connection) -> str:
        """
        Judge a link whose handshake has just been done: OpenSSL does not, if a session was resumed, and does by what
        was trusted when the link was accepted.

        @return: why it may not come in; empty: it may
        """
        shown: Any = connection
        certificate = shown.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            return ""
        # There is none of a resumed session.
        verified = shown.get_verified_chain(as_cryptography=True)
        if verified is not None:
            self._lineage.note(verified)
            if connection.get_context() in self._inUse.contexts.all:
                return ""
        return self._inUse.trust.refusal(certificate, datetime.now(UTC))

    def isRevoked(self, certificate: x509.Certificate | crypto.X509) -> bool:
        """
        Whether an open link is to be ended that came in with a certificate: a new one would be refused now, for another
        reason than that something has merely expired. In particular: it is on a revocation list of its issuer, or so is
        an authority above it; or none of the authorities is above it any more.
        """
        if isinstance(certificate, crypto.X509):
            certificate = certificate.to_cryptography()
        return self._inUse.trust.refusal(certificate) != ""

    # The files.

    @property
    def expiries(self) -> list[tuple[datetime, str]]:
        """
        See L{Credentials.expiries}.
        """
        return self._inUse.expiries

    def onReload(self, told: Callable[[], None]) -> None:
        """
        Have something called each time that other files are in use.
        """
        self._told.append(told)

    def start(self) -> None:
        """
        Look at the files every L{POLL_INTERVAL}, and replace the keys of tickets when they are L{TICKET_LIFETIME} old,
        until L{stop}.
        """
        self._isRunning = True
        self._timer = self._clock.callLater(POLL_INTERVAL, self._look)

    def lookNow(self) -> None:
        """
        Look at the files now, unless they are being looked at, or nobody wants them looked at.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._look()

    def stop(self) -> None:
        """
        Look no more.
        """
        self._isRunning = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def reload(self) -> None:
        """
        Read the files now. Blocks.

        @raise EndpointError: they cannot be used; what was read before stays
        """
        self._seen = self.files.stamps()
        self._replace(self._make(loadCredentials(self.files)))

    def _look(self) -> None:
        self._timer = None
        old = self._inUse.credentials if self._clock.seconds() - self._madeAt >= TICKET_LIFETIME else None
        looked = self._inThread(self._lookInThread, self._seen, old)
        looked.addCallback(self._looked)
        looked.addErrback(lambda failure: self.log.failure("the certificates could not be looked at", failure))
        looked.addCallback(self._again)

    def _again(self, _: object) -> None:
        if self._isRunning and self._timer is None:
            self._timer = self._clock.callLater(POLL_INTERVAL, self._look)

    def _lookInThread(self, seen: list[Stamp], old: Credentials | None) -> _Look:
        """
        @param old: what the new keys are for if the files are as they were; L{None}: none are due
        """
        stamps = self.files.stamps()
        try:
            if stamps != seen:
                return _Look(stamps, self._make(loadCredentials(self.files)))
        except EndpointError as error:
            return _Look(stamps, error=error)
        return _Look(stamps, None if old is None else self._make(old))

    def _looked(self, look: _Look) -> None:
        if not self._isRunning:
            return
        changed = look.stamps != self._seen
        self._seen = look.stamps
        if look.error is not None:
            # Once, as what was seen is remembered: the next attempt waits for another change.
            self.log.error("the certificates read before stay in use: {error}", error=str(look.error))
        elif look.made is not None and changed:
            self._replace(look.made)
        elif look.made is not None:
            self._use(look.made)
        else:
            self._noteExpired()

    def _make(self, credentials: Credentials) -> _InUse:
        trust = Trust(credentials.authorities, credentials.revocations, self._lineage)
        return _InUse(credentials, makeContexts(credentials), trust, credentials.expiries())

    def _use(self, made: _InUse) -> None:
        self._inUse = made
        self._madeAt = self._clock.seconds()
        self._noteExpired()

    def _replace(self, made: _InUse) -> None:
        self._expired = frozenset()
        self._use(made)
        self.log.info("{path}: certificates read again", path=self.files.certificate)
        for told in self._told:
            try:
                told()
            except Exception:
                self.log.failure("what follows from other certificates failed")

    def _noteExpired(self) -> None:
        """
        Tell operators once. Not a reason to refuse to serve: boxes may have no clock, and those without certificates
        have nothing to do with a revocation list.
        """
        now = datetime.now(UTC)
        for moment, what in self._inUse.expiries:
            if moment <= now and what not in self._expired:
                self._expired |= {what}
                self.log.error("{path}: {what} has expired", path=self.files.certificate, what=what)
