"""
Who may ask the HTTP side for anything but its health.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET, Request

from binaryserver.endpoints.listening import ServerEndpoint
from binaryserver.errors import ConfigError
from binaryserver.ops.problem import problem, sendProblem
from binaryserver.ops.tokens import TokenFile

_DELAY: Final = 1.0
"""s that whoever gave a wrong token waits for the answer"""
_MAX_DELAYED: Final = 64
"""answers that wait at a time; beyond it they say so at once"""
_LOG_INTERVAL: Final = 60.0
"""s, at least, between two lines of the log on wrong tokens"""

_NEEDS_RULES: Final = "without --http-token-file, or tls: with clientca=, it must be on a loopback address"
_TOKEN_NEEDS_TLS: Final = (
    "a token can be read on its way, so that it must be on a loopback address, or tls:, or behind a proxy that has TLS "
    "(--http-behind-tls)"
)

_LOOPBACK_HOSTS: Final = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
_SAFE: Final = frozenset({b"GET", b"HEAD"})


class Denied(NamedTuple):
    """
    Why a request is not served.

    @ivar status: an HTTP status code
    @ivar detail: one sentence for a person
    @ivar isGuess: it tried a token
    """

    status: int
    detail: str
    isGuess: bool = False


class Access:
    """
    The rules of one HTTP side.

    Without tokens and certificates everybody may who reaches it, which is for loopback only; and since a web page can
    make a browser on this host ask a name that it has pointed here (DNS rebinding), only under loopback's own names.

    @ivar guesses: requests with a wrong token, since the start
    """

    log = Logger()

    def __init__(self, clock: Any, tokens: TokenFile | None = None, acceptsCertificates: bool = False) -> None:
        """
        @param clock: the reactor
        @param acceptsCertificates: the endpoint verifies certificates of clients, so that one that has any is let in
        """
        self._clock = clock
        self._tokens = tokens
        self._acceptsCertificates = acceptsCertificates
        self._delayed = 0
        self._nextLog = 0.0
        self._unlogged = 0
        self.guesses = 0

    def judge(self, request: Request) -> Denied | None:
        """
        Whether a request whose head has come may be served.

        @return: L{None}: it may
        """
        if request.method not in _SAFE and request.requestHeaders.hasHeader(b"origin"):
            # Browsers name the page that asks, and there is no page that should.
            return Denied(403, "nothing is taken from web pages")
        if self._tokens is None and not self._acceptsCertificates:
            return None if _asksLoopback(request) else Denied(403, "ask for localhost, 127.0.0.1 or [::1]")
        if self._acceptsCertificates and _hasCertificate(request):
            return None
        if self._tokens is None:
            return Denied(403, "a client certificate is needed")
        token = _bearerToken(request)
        if token is None:
            return Denied(401, "a bearer token is needed")
        return None if self._tokens.holds(token) else Denied(401, "this is no token of this gateway's", isGuess=True)

    def deny(self, request: Request, denied: Denied) -> Any:
        """
        Answer a request that may not be served. A wrong token is answered late; whoever has a right one never waits.
        """
        if not denied.isGuess:
            return self._tell(request, denied)
        self._noteGuess(request)
        if self._delayed >= _MAX_DELAYED:
            request.setHeader("retry-after", "5")
            return problem(request, 503, "too many requests with a wrong token")
        self._delayed += 1
        timer = self._clock.callLater(_DELAY, self._answer, request, denied)

        def over(_: object) -> None:
            self._delayed -= 1
            if timer.active():
                timer.cancel()

        request.notifyFinish().addBoth(over)
        return NOT_DONE_YET

    def _answer(self, request: Request, denied: Denied) -> None:
        self._challenge(request, denied)
        sendProblem(request, denied.status, denied.detail)

    def _tell(self, request: Request, denied: Denied) -> bytes:
        self._challenge(request, denied)
        return problem(request, denied.status, denied.detail)

    def _challenge(self, request: Request, denied: Denied) -> None:
        if denied.status == 401:
            error = ', error="invalid_token"' if denied.isGuess else ""
            request.setHeader("www-authenticate", f'Bearer realm="binaryserver"{error}')

    def _noteGuess(self, request: Request) -> None:
        self.guesses += 1
        self._unlogged += 1
        now = self._clock.seconds()
        if now >= self._nextLog:
            self._nextLog = now + _LOG_INTERVAL
            peer = getattr(request.getClientAddress(), "host", "?")
            self.log.warn("requests with a wrong token: {count}, the last from {peer}", count=self._unlogged, peer=peer)
            self._unlogged = 0


def _asksLoopback(request: Request) -> bool:
    """
    The one name that it asks for is loopback's.
    """
    given = request.requestHeaders.getRawHeaders(b"host", [])
    if len(given) != 1:
        return False
    host, colon, port = given[0].strip().lower().rpartition(b":")
    if not colon or not port.isdigit():
        host = given[0].strip().lower()
    return host in _LOOPBACK_HOSTS


def _hasCertificate(request: Request) -> bool:
    """
    TLS lets no certificate through that it did not verify.
    """
    channel: Any = request.channel
    getPeerCertificate = getattr(channel.transport, "getPeerCertificate", None)
    return getPeerCertificate is not None and getPeerCertificate() is not None


def _bearerToken(request: Request) -> bytes | None:
    given = request.requestHeaders.getRawHeaders(b"authorization", [])
    if len(given) != 1:
        return None
    scheme, _, token = given[0].strip().partition(b" ")
    return token.strip() or None if scheme.lower() == b"bearer" else None


def accessTo(
    endpoint: ServerEndpoint, description: str, tokenFile: str, isBehindTls: bool, clock: Any
) -> tuple[Access, str]:
    """
    The rules of an HTTP side by its options.

    @param endpoint: of C{--http}
    @param description: its string
    @param tokenFile: C{--http-token-file}; empty: there is none
    @param isBehindTls: C{--http-behind-tls}
    @return: the rules, and why it may listen on loopback addresses only (empty: it may anywhere)
    @raise ConfigError: an option cannot be used, or not with another
    """
    tokens = TokenFile(tokenFile, "--http-token-file", clock) if tokenFile else None
    if isBehindTls and tokens is None:
        raise ConfigError("--http-behind-tls", "is of no use without --http-token-file")
    credentials = endpoint.credentials
    verifies = credentials is not None and credentials.files.clientAuthorities is not None
    isTls = isBehindTls or credentials is not None or description.partition(":")[0].lower() == "ssl"
    access = Access(clock, tokens, verifies)
    if verifies or (tokens is not None and isTls):
        return access, ""
    why = _TOKEN_NEEDS_TLS if tokens is not None else _NEEDS_RULES
    if endpoint.proxied:
        # That the proxy reaches it by loopback says nothing of who reaches the proxy.
        raise ConfigError("--http", f"{description}: {why}")
    return access, why
