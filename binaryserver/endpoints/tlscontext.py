"""
What OpenSSL is told: versions, ciphers, resumption, which certificate is shown for which name, and whom to believe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from OpenSSL import SSL, crypto

from binaryserver.endpoints.errors import EndpointError
from binaryserver.endpoints.pemfiles import Credentials

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

TICKET_LIFETIME = 12 * 3600
"""s that a ticket is good for at most, and after which the keys of tickets are replaced."""

_SESSION_CONTEXT = b"binaryserver"
"""
Without one OpenSSL resumes no session that has a client's certificate. All contexts may share it: what a session is
good for is bound by the key of its ticket, and that is a context's own.
"""


@dataclass(frozen=True, slots=True)
class Contexts:
    """
    Of one listener.

    @ivar initial: what every handshake begins with. The keys of tickets are its own, whatever name is asked for.
    @ivar all: that, and those which show another certificate
    """

    initial: SSL.Context
    all: frozenset[SSL.Context]


def makeContexts(credentials: Credentials) -> Contexts:
    """
    A context for each certificate, which is found by the name that the peer asks for. Blocks for some ms.

    @raise EndpointError: see L{makeContext}
    """
    initial = makeContext(credentials, credentials.chain, credentials.key, "certificate or key")
    exact: dict[bytes, SSL.Context] = {}
    below: dict[bytes, SSL.Context] = {}
    for one in credentials.named:
        context = makeContext(credentials, one.chain, one.key, f"sni={one.path}")
        for name in one.names:
            if name.startswith("*."):
                below[name[2:].encode()] = context
            else:
                exact[name.encode()] = context

    def choose(connection: SSL.Connection) -> None:
        name = (connection.get_servername() or b"").lower()
        # A wildcard stands for one whole label. [RFC 6125, 6.4.3]
        chosen = exact.get(name) or below.get(name.partition(b".")[2])
        if chosen is not None:
            connection.set_context(chosen)

    if credentials.named:
        initial.set_tlsext_servername_callback(choose)
    return Contexts(initial, frozenset((initial, *exact.values(), *below.values())))


def makeContext(
    credentials: Credentials, chain: Sequence[x509.Certificate], privateKey: PrivateKeyTypes, what: str
) -> SSL.Context:
    """
    TLS 1.2 and 1.3, no renegotiation, no compression, no early data, client certificates optional but verified.
    Sessions are resumed by tickets, so that nothing is kept of a link that is gone.

    Every certificate of a box's chain is looked up in its issuer's revocation list; a missing or expired list refuses
    it, as with nginx and HAProxy.

    @param chain: the certificate to show and those above it
    @param what: whose these are, for the error
    @raise EndpointError: OpenSSL refuses what was read (e.g. a key that is too short)
    """
    # Not every constant and type is known to the published stubs.
    library: Any = SSL
    key: Any = privateKey
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | library.OP_NO_RENEGOTIATION)
    # Buffers of 16 KiB each way go back to the heap while a link is idle.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | MODE_NO_AUTO_CHAIN)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(_SESSION_CONTEXT)
    context.set_timeout(TICKET_LIFETIME)
    context.set_cipher_list(CIPHERS_TLS12)
    try:
        context.use_certificate(crypto.X509.from_cryptography(chain[0]))
        for extra in chain[1:]:
            context.add_extra_chain_cert(crypto.X509.from_cryptography(extra))
        context.use_privatekey(crypto.PKey.from_cryptography_key(key))
        context.check_privatekey()
        if credentials.authorities:
            _trust(context, credentials)
    except (SSL.Error, crypto.Error, TypeError) as error:
        raise EndpointError(f"{what}: refused by OpenSSL: {opensslReason(error)}") from error
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
