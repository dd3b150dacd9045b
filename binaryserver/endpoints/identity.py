"""
Who a link's peer is, by the certificate it proved to hold.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography.x509 import Certificate
from cryptography.x509.oid import NameOID, ObjectIdentifier
from twisted.internet.interfaces import ITransport

from binaryserver.endpoints.tlslink import TlsLink


class PeerIdentity(NamedTuple):
    """
    The subject of a verified client certificate.

    @ivar commonName: CN: the asset
    @ivar organization: O: the account
    """

    commonName: str
    organization: str


def peerIdentity(transport: ITransport) -> PeerIdentity | None:
    """
    Who the peer proved to be. For links of any kind, from C{connectionMade} until C{connectionLost}.

    @return: L{None}: the link has no TLS, the peer showed no certificate, or its certificate's subject has not exactly
        one CN and one O. (One that does not verify never gets this far.)
    """
    getPeerCertificate = getattr(transport, "getPeerCertificate", None)
    shown = None if getPeerCertificate is None else getPeerCertificate()
    if shown is None:
        return None
    certificate: Certificate = shown.to_cryptography()
    try:
        name, organization = (_only(certificate, oid) for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME))
    except ValueError:
        # A subject that is no valid DER or text: OpenSSL is laxer here.
        return None
    return PeerIdentity(name, organization) if name and organization else None


def isRevoked(transport: ITransport) -> bool:
    """
    Whether an open link is to be ended, as the certificate by which it came in would not let it in now. For links of
    any kind. (L{binaryserver.endpoints.credentials.ReloadingCredentials.isRevoked})
    """
    if not isinstance(transport, TlsLink) or transport.getHandle() is None:
        return False
    shown = transport.getPeerCertificate()
    return shown is not None and transport.factory.credentials.isRevoked(shown)


def _only(certificate: Certificate, oid: ObjectIdentifier) -> str | None:
    values = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(oid)]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None
