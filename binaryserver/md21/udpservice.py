"""
Binding the UDP side of MD21: C{--md21-udp} and C{--md21-udp-advertise}.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.udp import Port
from twisted.logger import Logger

from binaryserver.errors import ConfigError
from binaryserver.md21.udp import Advertised, UdpSide
from binaryserver.service import Component

OPTION: Final = "--md21-udp"
ADVERTISE_OPTION: Final = "--md21-udp-advertise"

_MAX_PORT: Final = 65_535
_MAX_HOST: Final = 255
_LARGEST: Final = 65_536
"""Bytes: no datagram is larger."""

_BATCH: Final = 64
"""Datagrams that are read in one turn of the reactor."""

_BUFFER: Final = 4_194_304
"""Bytes that the kernel is asked to keep of what is not read yet, and of what is not sent yet; it may give less."""


class UdpAddress(NamedTuple):
    """
    Where to bind.

    @ivar port: 0: any that is free
    @ivar interface: an IP address; empty: all of IPv4's
    """

    port: int
    interface: str = ""

    @classmethod
    def parse(cls, text: str, worker: int = 0) -> UdpAddress:
        """
        Understand C{PORT[:interface=ADDR]}. The colons of an IPv6 address may stand after backslashes, as in endpoint
        strings.

        @param worker: whose port is meant: C{PORT + worker}
        @raise ConfigError: it cannot be understood
        """
        first, separator, rest = text.partition(":")
        name, _, interface = rest.partition("=")
        if separator and name != "interface":
            raise ConfigError(OPTION, f"{text!r} is not PORT[:interface=ADDR]")
        interface = interface.replace("\\:", ":")
        if separator:
            try:
                ip_address(interface.partition("%")[0])
            except ValueError as error:
                raise ConfigError(OPTION, f"{text!r}: {interface!r} is no IP address") from error
        return cls(_port(OPTION, text, first, worker, 0), interface)


def parseAdvertised(text: str, worker: int = 0) -> Advertised:
    """
    Understand C{HOST[:PORT]}; an IPv6 address with a port stands in brackets.

    @param worker: whose port is meant: C{PORT + worker}
    @raise ConfigError: it cannot be understood
    """
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        separator, port = rest[:1], rest[1:]
    elif text.count(":") > 1:
        host, separator, port = text, "", ""
    else:
        host, separator, port = text.partition(":")
    if separator not in ("", ":") or not 0 < len(host) <= _MAX_HOST or not (host.isascii() and host.isprintable()):
        raise ConfigError(ADVERTISE_OPTION, f"{text!r} is not HOST[:PORT]")
    return Advertised(host, _port(ADVERTISE_OPTION, text, port, worker, 1) if separator else 0)


def _port(option: str, text: str, port: str, worker: int, least: int) -> int:
    if not (port.isascii() and port.isdigit() and least <= int(port) <= _MAX_PORT):
        raise ConfigError(option, f"{text!r}: a port is a number from {least} to {_MAX_PORT}")
    number = int(port)
    if not number:
        return 0
    if number + worker > _MAX_PORT:
        raise ConfigError(option, f"{text!r}: worker {worker} would have port {number + worker}")
    return number + worker


class UdpPort(Port):
    """
    Reads a bounded number of datagrams in a turn. Twisted's own counts bytes, so that a flood of empty datagrams keeps
    it for as long as it lasts.
    """

    def doRead(self) -> None:
        """
        See L{Port.doRead}.
        """
        receive, size, protocol = self.socket.recvfrom, self.maxPacketSize, self.protocol
        for _ in range(_BATCH):
            try:
                data, address = receive(size)
            except (BlockingIOError, InterruptedError, ConnectionRefusedError):
                return
            protocol.datagramReceived(data, address[:2])


class UdpService(Component):
    """
    The socket's life: bound before the gateway takes links, and closed after their last acks.

    @ivar side: what links open their ways on
    """

    log = Logger()

    def __init__(self, reactor: Any, spec: str, advertise: str, worker: int = 0, mustBeLoopback: str = "") -> None:
        """
        @param spec: of C{--md21-udp}
        @param advertise: of C{--md21-udp-advertise}; may be empty
        @param worker: the number of this worker
        @param mustBeLoopback: why it may only be bound on loopback; empty: it may anywhere
        @raise ConfigError: something of that cannot be used
        """
        self._reactor = reactor
        self._spec = spec
        self._address = UdpAddress.parse(spec, worker)
        interface = self._address.interface
        if mustBeLoopback and not (interface and ip_address(interface.partition("%")[0]).is_loopback):
            raise ConfigError(OPTION, f"{spec}: {mustBeLoopback}")
        self.side = UdpSide(reactor, parseAdvertised(advertise, worker) if advertise else None)
        self._port: UdpPort | None = None

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}.

        @raise ConfigError: the port cannot be bound
        """
        port = UdpPort(self._address.port, self.side, self._address.interface, _LARGEST, self._reactor)
        try:
            port.startListening()
        except CannotListenError as error:
            cause = error.socketError
            where = f"port {self._address.port}: " if str(self._address.port) not in self._spec.split(":") else ""
            text = getattr(cause, "strerror", None) or cause
            raise ConfigError(OPTION, f"{self._spec}: {where}{text}") from error
        self._port = port
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            port.socket.setsockopt(socket.SOL_SOCKET, buffer, _BUFFER)
        return succeed(None)

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}.
        """
        port, self._port = self._port, None
        stopping: Deferred[None] | None = None if port is None else port.stopListening()
        return succeed(None) if stopping is None else stopping
