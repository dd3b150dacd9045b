"""
Why a directory service did not answer.
"""

from __future__ import annotations

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.web.client import RequestGenerationFailed, RequestTransmissionFailed, ResponseFailed

_WRAPPERS = (RequestGenerationFailed, RequestTransmissionFailed, ResponseFailed)

FAILURES = (
    *_WRAPPERS,
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
    OSError,
    SSL.Error,
    VerificationError,
)
"""What a request fails with that never was answered whole."""


class Refusal(Exception):
    """
    A try of a request that gave nothing. The message says why.

    @ivar isLasting: it will be so the next time
    @ivar pause: s for which the service wants to be left alone; L{None}: it does not say
    """

    def __init__(self, reason: str, isLasting: bool = False, pause: float | None = None) -> None:
        super().__init__(reason)
        self.isLasting = isLasting
        self.pause = pause


def refusalOf(error: BaseException) -> Refusal:
    """
    What one of L{FAILURES} means.
    """
    cause = error
    while isinstance(cause, _WRAPPERS) and cause.reasons:
        # The first is what happened; others are what came of it.
        cause = cause.reasons[0].value
    if isinstance(cause, VerificationError):
        return Refusal("its certificate is not for this host", isLasting=True)
    if isinstance(cause, SSL.Error) and not isinstance(cause, SSL.SysCallError):
        return Refusal(_tlsReason(cause), isLasting=True)
    if isinstance(cause, DNSLookupError):
        return Refusal("its host name is not known")
    if isinstance(cause, ConnectTimeout):
        return Refusal("it cannot be reached in time")
    if isinstance(cause, ConnectionClosed | SSL.Error):
        return Refusal("it closed the connection before its answer was whole")
    return Refusal(f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__)


def _tlsReason(error: SSL.Error) -> str:
    texts = [each[-1] for each in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    if "certificate verify failed" in texts:
        return "its certificate is not to be trusted: no authority that is known here has signed it, or it expired"
    return f"TLS failed: {', '.join(texts) or 'it closed the connection'}"
