"""
What a TLS listener shows and trusts: files to read, an OpenSSL context made of them, and both anew when they change.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from binaryserver.endpoints.errors import EndpointError

CIPHERS_TLS12 = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""
Of TLS 1.2. All that TLS 1.3 has are as good: forward secret and authenticated. So the box chooses, which knows
whether it has AES in hardware.
"""

MODE_NO_AUTO_CHAIN = 0x8
"""
C{SSL_MODE_NO_AUTO_CHAIN}, which pyOpenSSL does not name: the server shows the chain in its file, and adds nothing that
it finds among the authorities of the boxes.
"""

POLL_INTERVAL = 2.0
"""s: files are looked at again at most this often."""

Parsed = TypeVar("Parsed")

_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """
    The files that a TLS endpoint string names; all PEM.

    @ivar certificate: the server's certificate, then the chain up to but without the root
    @ivar key: its private key, not encrypted
    @ivar clientAuthorities: who signs the boxes' certificates; L{None}: boxes are not asked for one
    @ivar revocations: a revocation list of each of those; L{None}: none is checked
    """

    certificate: str
    key: str
    clientAuthorities: str | None = None
    revocations: str | None = None

    def paths(self) -> list[str]:
        """
        All that are named.
        """
        named = (self.certificate, self.key, self.clientAuthorities, self.revocations)
        return [path for path in named if path is not None]


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    What those files hold, checked to fit together.
    """

    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes
    authorities: tuple[x509.Certificate, ...]
    revocations: tuple[x509.CertificateRevocationList, ...]

    def expiries(self) -> list[tuple[datetime, str]]:
        """
        When each thing that expires does, and what it is.
        """
        found = [(self.chain[0].not_valid_after_utc, "the server's certificate")]
        for listed in self.revocations:
            if listed.next_update_utc is not None:
                found.append((listed.next_update_utc, f"the revocation list of {listed.issuer.rfc4514_string()}"))
        return found


def loadCredentials(files: CredentialFiles) -> Credentials:
    """
    Read and check the files.

    @raise EndpointError: one is unreadable, is not what it should be, or does not fit another
    """
    chain = _certificates(files.certificate, "cert")
    key = _privateKey(files.key)
    if _publicBytes(chain[0].public_key()) != _publicBytes(key.public_key()):
        raise EndpointError(f"key={files.key}: is not the key of the certificate in {files.certificate}")
    authorities: tuple[x509.Certificate, ...] = ()
    revocations: tuple[x509.CertificateRevocationList, ...] = ()
    if files.clientAuthorities is not None:
        authorities = _certificates(files.clientAuthorities, "clientca")
    if files.revocations is not None:
        if not authorities:
            raise EndpointError(f"crl={files.revocations}: of no use without clientca=PATH")
        revocations = _revocationLists(files.revocations, authorities)
    return Credentials(chain, key, authorities, revocations)


def makeContext(credentials: Credentials) -> SSL.Context:
    """
    The OpenSSL side of it: TLS 1.2 and 1.3, no renegotiation, no compression, no resumption, client certificates
    optional but verified.

    Every certificate of a box's chain is looked up in its issuer's revocation list; a missing or expired list refuses
    it, as with nginx and HAProxy.

    @raise EndpointError: OpenSSL refuses what was read (e.g. a key that is too short)
    """
    # Not every constant and type is known to the published stubs.
    library: Any = SSL
    key: Any = credentials.key
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | library.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    # Buffers of 16 KiB each way go back to the heap while a link is idle.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | MODE_NO_AUTO_CHAIN)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_cipher_list(CIPHERS_TLS12)
    try:
        context.use_certificate(crypto.X509.from_cryptography(credentials.chain[0]))
        for extra in credentials.chain[1:]:
            context.add_extra_chain_cert(crypto.X509.from_cryptography(extra))
        context.use_privatekey(crypto.PKey.from_cryptography_key(key))
        context.check_privatekey()
        if credentials.authorities:
            _trust(context, credentials)
    except (SSL.Error, crypto.Error, TypeError) as error:
        raise EndpointError(f"OpenSSL refuses certificate or key: {opensslReason(error)}") from error
    return context


def _trust(context: SSL.Context, credentials: Credentials) -> None:
    """
    Ask boxes for a certificate, and verify it if they have one.
    """
    store: Any = context.get_cert_store()
    for authority in credentials.authorities:
        certificate = crypto.X509.from_cryptography(authority)
        store.add_cert(certificate)
        context.add_client_ca(certificate)
    if credentials.revocations:
        for listed in credentials.revocations:
            store.add_crl(listed)
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_CLIENT_ONCE)


def opensslReason(error: BaseException) -> str:
    """
    What OpenSSL says of a failure, in its own words.
    """
    first = error.args[0] if error.args else ""
    if isinstance(first, list):
        return "; ".join(entry[-1] for entry in first if entry[-1]) or type(error).__name__
    return str(error) or type(error).__name__


@implementer(IOpenSSLServerConnectionCreator)
class ReloadingCredentials:
    """
    Gives every new link what the files hold now. Links that are open keep what they began with.
    """

    log = Logger()

    def __init__(self, files: CredentialFiles, clock: IReactorTime) -> None:
        """
        @raise EndpointError: see L{loadCredentials}
        """
        self.files = files
        self._expired: frozenset[str] = frozenset()
        self._clock = clock
        self._seen = self._stamps()
        self._credentials = loadCredentials(files)
        self._context = makeContext(self._credentials)
        self._nextPoll = clock.seconds() + POLL_INTERVAL
        self._noteExpired()

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """
        See L{IOpenSSLServerConnectionCreator.serverConnectionForTLS}.
        """
        self._poll()
        return SSL.Connection(self._context, None)

    def reload(self) -> None:
        """
        Read the files now.

        @raise EndpointError: they cannot be used; what was read before stays
        """
        self._seen = self._stamps()
        credentials = loadCredentials(self.files)
        self._context = makeContext(credentials)
        self._credentials = credentials
        self._expired = frozenset()
        self.log.info("{path}: certificates read again", path=self.files.certificate)
        self._noteExpired()

    def _poll(self) -> None:
        now = self._clock.seconds()
        if now < self._nextPoll:
            return
        self._nextPoll = now + POLL_INTERVAL
        if self._stamps() == self._seen:
            self._noteExpired()
            return
        try:
            self.reload()
        except EndpointError as error:
            # Once, as what was seen is remembered: the next attempt waits for another change.
            self.log.error("the certificates read before stay in use: {error}", error=str(error))

    def _noteExpired(self) -> None:
        """
        Tell operators once. Not a reason to refuse to serve: boxes may have no clock, and those without certificates
        have nothing to do with a revocation list.
        """
        now = datetime.now(UTC)
        for moment, what in self._credentials.expiries():
            if moment <= now and what not in self._expired:
                self._expired |= {what}
                self.log.error("{path}: {what} has expired", path=self.files.certificate, what=what)

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self.files.paths()]


def _stamp(path: str) -> tuple[int, int, int] | None:
    """
    What tells one state of a file from the next; L{None} if it is not there.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ino, status.st_size)


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise EndpointError(f"{what}={path}: {error.strerror or error}") from error


def _certificates(path: str, what: str) -> tuple[x509.Certificate, ...]:
    data = _read(path, what)
    return tuple(
        _parsed(lambda: x509.load_pem_x509_certificates(data), path, what, "PEM certificates, or damaged ones")
    )


def _privateKey(path: str) -> PrivateKeyTypes:
    data = _read(path, "key")
    try:
        return _parsed(lambda: load_pem_private_key(data, None), path, "key", "PEM private key, or a damaged one")
    except TypeError as error:
        raise EndpointError(f"key={path}: is encrypted; a key without a passphrase is needed") from error


def _parsed(parse: Callable[[], Parsed], path: str, what: str, wanted: str) -> Parsed:
    try:
        return parse()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EndpointError(f"{what}={path}: holds no {wanted}") from error


def _revocationLists(path: str, authorities: Sequence[x509.Certificate]) -> tuple[x509.CertificateRevocationList, ...]:
    blocks = _CRL.findall(_read(path, "crl"))
    if not blocks:
        raise EndpointError(f"crl={path}: holds no PEM revocation list")
    lists = _parsed(
        lambda: [x509.load_pem_x509_crl(block) for block in blocks],
        path,
        "crl",
        "PEM revocation lists, or damaged ones",
    )
    for authority in authorities:
        # OpenSSL would refuse every box of an authority whose list is missing: better said at start.
        if not any(_isListOf(listed, authority) for listed in lists):
            name = authority.subject.rfc4514_string()
            raise EndpointError(f"crl={path}: holds no revocation list signed by {name} of clientca")
    return tuple(lists)


def _isListOf(listed: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if listed.issuer != authority.subject:
        return False
    try:
        return listed.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except TypeError:
        # A key of a kind that cannot sign.
        return False


def _publicBytes(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]
