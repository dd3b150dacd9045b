"""
An MD21 box on a real socket, for tests against real gateways.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any, TypeVar

from binaryserver.md21 import values
from binaryserver.md21.codec import decode, encode
from binaryserver.md21.framing import Framing, frame
from binaryserver.md21.values import HeaderStatus
from tests.harness import ASSET
from tests.md21.world import makeHeader

_WAIT = 20.0

_Pdu = TypeVar("_Pdu", bound=values.Pdu)


class SocketBox:
    """
    A box that does one thing after the other.
    """

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), _WAIT)
        self._framing = Framing(values.MAX_PDU)
        self._came: list[values.Pdu] = []

    def send(self, *pdus: values.Pdu) -> None:
        """
        PDUs in one write.
        """
        self.sock.sendall(b"".join(frame(encode(pdu)) for pdu in pdus))

    def next(self) -> values.Pdu | None:
        """
        The next PDU; C{None}: the gateway has closed the link.
        """
        while not self._came:
            try:
                data = self.sock.recv(65_536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._came += map(decode, self._framing.feed(data))
        return self._came.pop(0)

    def expect(self, kind: type[_Pdu]) -> _Pdu:
        """
        The next PDU, which is of that kind.
        """
        pdu = self.next()
        assert isinstance(pdu, kind), pdu
        return pdu

    def connect(self, asset: str = ASSET, **header: Any) -> SocketBox:
        """
        The header, and all that belongs to it.
        """
        self.send(makeHeader(asset, **header))
        ack = self.expect(values.HeaderAck)
        assert ack.status is HeaderStatus.OK, ack
        self.send(values.BaseValueAck(self.expect(values.BaseValues).revision))
        return self

    def secure(self) -> SocketBox:
        """
        Ask for TLS, and begin it.
        """
        self.send(makeHeader(tls=True, secret=None))
        ack = self.expect(values.HeaderAck)
        assert ack.status is HeaderStatus.TLS_ACCEPTED, ack
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock)
        return self

    def block(self, block: values.TrackingData) -> None:
        """
        A block, and its ack.
        """
        self.send(block)
        self.expect(values.TrackingAck)

    def close(self) -> None:
        """
        Without a word.
        """
        self.sock.close()
