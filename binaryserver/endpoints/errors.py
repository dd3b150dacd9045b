"""
What can go wrong between an endpoint string and an open link.
"""

from __future__ import annotations

from binaryserver.errors import LocalError, PeerError


class EndpointError(LocalError):
    """
    An endpoint string, or a file that it names, cannot be used. C{str(error)} names it and says why, in one line.
    """


class HandshakeFailed(PeerError):
    """
    The peer's TLS handshake broke a rule: no TLS at all, an old version, no cipher in common, a bad certificate.
    """
