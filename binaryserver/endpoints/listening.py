"""
From an endpoint string to something that listens.
"""

# Twisted's own wrappers and endpoints carry no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from OpenSSL import SSL
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer

from binaryserver.endpoints.credentials import CredentialFiles, ReloadingCredentials, opensslReason
from binaryserver.endpoints.door import Door
from binaryserver.endpoints.errors import EndpointError
from binaryserver.endpoints.proxylink import ProxyFactory
from binaryserver.endpoints.tlslink import TlsFactory

HANDSHAKE_TIMEOUT = 10.0
"""s, from accept to the end of the TLS handshake, a PROXY header included."""
CLOSE_TIMEOUT = 30.0
"""s that a closing TLS link may take."""

BACKLOG = "1024"
"""Connections that wait to be accepted: Twisted's 50 are few for a fleet that comes back at once."""

PLUGIN_PREFIX = "binaryserver-tls"
"""
What the parser of C{tls:} is called among Twisted's plugins. Twisted has a C{tls} of its own, for a directory of
certificates, and which of two plugins with one prefix is found depends on how they were installed.
"""


@implementer(IStreamServerEndpoint)
@dataclass(frozen=True)
class ServerEndpoint:
    """
    A socket to listen on, and what comes between it and the links' protocol.

    @ivar plain: listens without any of that
    @ivar credentials: TLS by these; L{None}: no TLS
    @ivar proxied: a PROXY protocol header comes first
    @ivar door: what connections must pass before all else; L{None}: nothing
    """

    reactor: Any
    plain: IStreamServerEndpoint
    credentials: ReloadingCredentials | None = None
    proxied: bool = False
    handshakeTimeout: float = HANDSHAKE_TIMEOUT
    closeTimeout: float = CLOSE_TIMEOUT
    door: Door | None = None

    def onReload(self, told: Callable[[], None]) -> None:
        """
        Have something called each time that other certificates, authorities or revocation lists are in use. It then
        asks of each of its links whether it L{binaryserver.endpoints.identity.isRevoked}.
        """
        if self.credentials is not None:
            self.credentials.onReload(told)

    def wrap(self, factory: IProtocolFactory) -> IProtocolFactory:
        """
        The factory for connections as they are accepted: for a socket that somebody else bound
        (C{adoptStreamPort(fd, family, endpoint.wrap(factory))}).
        """
        if self.credentials is not None:
            factory = TlsFactory(self.credentials, factory, self.reactor, self.handshakeTimeout, self.closeTimeout)
        if self.proxied:
            factory = ProxyFactory(factory, self.reactor, self.handshakeTimeout)
        if self.door is not None:
            factory = self.door.guard(factory, self.proxied)
        return factory

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        See L{IStreamServerEndpoint.listen}.
        """
        listening: Deferred[IListeningPort] = self.plain.listen(self.wrap(protocolFactory))
        return listening


def serverFromString(
    reactor: Any,
    description: str,
    handshakeTimeout: float = HANDSHAKE_TIMEOUT,
    closeTimeout: float = CLOSE_TIMEOUT,
    door: Door | None = None,
) -> ServerEndpoint:
    """
    Understand an endpoint string: Twisted's own, but C{tls:} and C{haproxy:} are ours (C{docs/endpoints.md}).

    @param handshakeTimeout: s, see L{HANDSHAKE_TIMEOUT}
    @param closeTimeout: s, see L{CLOSE_TIMEOUT}
    @param door: what connections must pass before all else; L{None}: nothing
    @raise EndpointError: it cannot be understood, or a file that it names cannot be used
    """
    prefix, _, rest = description.partition(":")
    if prefix.lower() == "haproxy":
        wrapped = serverFromString(reactor, rest, handshakeTimeout, closeTimeout, door)
        if wrapped.credentials is not None or wrapped.proxied or rest.partition(":")[0].lower() == "ssl":
            raise EndpointError(f"{description!r}: haproxy: goes before tcp: only; for TLS write tls:...:proxy=yes")
        return replace(wrapped, proxied=True)
    text = description
    if prefix.lower() in ("tcp", "tcp6") and ":backlog=" not in description:
        # Twisted's 50 makes boxes wait for a retransmission when a fleet comes back at once.
        text = f"{description}:backlog={BACKLOG}"
    if prefix.lower() == "tls":
        text = f"{PLUGIN_PREFIX}:{rest}"
    try:
        endpoint = endpoints.serverFromString(reactor, text)
    except (ValueError, TypeError, KeyError, OSError, SSL.Error) as error:
        raise EndpointError(f"{description!r} is no endpoint string: {opensslReason(error)}") from error
    if not isinstance(endpoint, ServerEndpoint):
        endpoint = ServerEndpoint(reactor, endpoint)
    return replace(endpoint, handshakeTimeout=handshakeTimeout, closeTimeout=closeTimeout, door=door)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class TlsServerParser:
    """
    Understands
    C{PORT[:interface=ADDR][:backlog=N]:cert=PATH:key=PATH[:clientca=PATH][:crl=PATH][:sni=DIR][:proxy=yes]}.
    """

    prefix = PLUGIN_PREFIX

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> ServerEndpoint:
        """
        See L{IStreamServerEndpointStringParser.parseStreamServer}.

        @raise EndpointError: the arguments, or the files they name, cannot be used
        """
        known = {"interface", "backlog", "cert", "key", "clientca", "crl", "sni", "proxy"}
        unknown = sorted(set(kwargs) - known)
        if unknown:
            raise EndpointError(f"tls: {unknown[0]}= is unknown; known: {', '.join(sorted(known))}")
        if len(args) != 1 or not args[0]:
            raise EndpointError("tls: the form is tls:PORT[:interface=ADDR]:cert=PATH:key=PATH[:clientca=PATH]...")
        for needed in ("cert", "key"):
            if not kwargs.get(needed):
                raise EndpointError(f"tls: {needed}=PATH is missing")
        if kwargs.get("proxy", "no") not in ("yes", "no"):
            raise EndpointError("tls: proxy= is yes or no")
        port = _number("the port", args[0], 65535)
        backlog = _number("backlog", kwargs.get("backlog", BACKLOG), 65535)
        named = (kwargs.get(name) for name in ("clientca", "crl", "sni"))
        files = CredentialFiles(kwargs["cert"], kwargs["key"], *named)
        try:
            credentials = ReloadingCredentials(files, reactor)
        except EndpointError as error:
            raise EndpointError(f"tls: {error}") from error
        plain = endpoints.TCP4ServerEndpoint(reactor, port, backlog, kwargs.get("interface", ""))
        return ServerEndpoint(reactor, plain, credentials, kwargs.get("proxy") == "yes")


def _number(what: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise EndpointError(f"tls: {what} is a number up to {most}, not {text!r}")
    return int(text)
