"""
One broker's connection: pykafka's, in a thread of its own, asked from the reactor's thread.

pykafka blocks. So every connection has a thread that takes requests from a queue, one at a time, and nothing else ever
touches its socket but L{BrokerLink.close}, which wakes it.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from binaryserver.bus.pykafka_import import BrokerConnection, ThreadingHandler
from binaryserver.bus.pykafka_options import Address
from binaryserver.bus.pykafka_records import BadKafkaBytes
from binaryserver.bus.pykafka_requests import parseWith
from binaryserver.errors import BusError, BusUnavailable

_T = TypeVar("_T")

MAX_RESPONSE = 256 * 1024 * 1024
"""Bytes: a broker that announces more is none."""

IDLE_LIMIT = 60.0
"""s: a connection unused for longer is made anew, as brokers (10 min) and firewalls drop such, some without a word."""


class Sendable(Protocol):
    """
    What pykafka's requests are.
    """

    def get_bytes(self) -> bytes | bytearray:
        """
        The request with its length and header.
        """


class IBrokerLink(Protocol):
    """
    What the parts of the bus need of a link.
    """

    def ask(self, build: Callable[[], Sendable], parse: Callable[[memoryview], _T], timeout: float) -> Deferred[_T]:
        """
        Send a request, behind those asked before, and wait for its answer.

        @param build: makes the request; called in the link's thread, as encoding takes a while
        @param parse: makes the answer of its bytes; called in the link's thread
        @param timeout: s from when its turn comes, for connecting, sending and the whole answer
        @return: fails with L{BusUnavailable} or L{BadKafkaBytes}; what became of the request is then unknown
        """

    def close(self) -> Deferred[None]:
        """
        Break the connection; what is asked fails. Fires when the thread has ended.
        """


class _Connection(BrokerConnection):
    """
    pykafka's connection, with time limits over the whole of an exchange and with the reasons of its failures.
    """

    _socket: socket.socket | None

    def __init__(self, address: Address, tls: ssl.SSLContext | None) -> None:
        super().__init__(address.host, address.port, ThreadingHandler(), buffer_size=0)
        self._address = address
        self._tls = tls
        self._used = 0.0

    def exchange(self, data: bytes | bytearray, connectTimeout: float, timeout: float) -> memoryview:
        """
        Send a request's bytes and receive its answer's, without length and correlation id.

        @raise OSError: it did not work; the connection is then closed
        """
        try:
            deadline = time.monotonic() + timeout
            if time.monotonic() - self._used > IDLE_LIMIT:
                self.disconnect()
            if self._socket is None:
                self._socket = self._open(min(connectTimeout, timeout))
            opened = self._socket
            opened.settimeout(max(0.001, deadline - time.monotonic()))
            opened.sendall(data)
            size = int.from_bytes(self._receive(opened, 4, deadline), "big")
            if not 4 <= size <= MAX_RESPONSE:
                raise ConnectionAbortedError(
                    f"it answers with a length of {size}: not a Kafka broker, or TLS on one side"
                )
            answer = self._receive(opened, size, deadline)
            self._used = time.monotonic()
            return answer[4:]
        except OSError:
            # An answer that is still to come must not be taken for the next request's.
            self.disconnect()
            raise

    def wake(self) -> None:
        """
        Make whatever waits on the socket fail. May be called from another thread.
        """
        opened = self._socket
        if opened is not None:
            try:
                opened.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def _open(self, timeout: float) -> socket.socket:
        opened = socket.create_connection((self.host, self.port), timeout)
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                opened = self._tls.wrap_socket(opened, server_hostname=self.host)
        except OSError:
            opened.close()
            raise
        return opened

    def _receive(self, opened: socket.socket, size: int, deadline: float) -> memoryview:
        view = memoryview(bytearray(size))
        position = 0
        while position < size:
            opened.settimeout(max(0.001, deadline - time.monotonic()))
            count = opened.recv_into(view[position:])
            if not count:
                raise ConnectionResetError("it closed the connection")
            position += count
        return view


class BrokerLink:
    """
    An L{IBrokerLink} to a real broker. Connects when first asked, and again after every failure.
    """

    def __init__(self, reactor: Any, address: Address, connectTimeout: float, tls: ssl.SSLContext | None) -> None:
        """
        @param reactor: C{IReactorFromThreads}
        @param connectTimeout: s
        @param tls: how to speak TLS; L{None} for plain TCP
        """
        self._reactor = reactor
        self._address = address
        self._connectTimeout = connectTimeout
        self._connection = _Connection(address, tls)
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closing = False
        self._running = False
        self._ended: Deferred[None] = Deferred()

    def ask(self, build: Callable[[], Sendable], parse: Callable[[memoryview], _T], timeout: float) -> Deferred[_T]:
        """
        See L{IBrokerLink.ask}.
        """
        if self._closing:
            return fail(BusUnavailable(f"the connection to {self._address} is closed"))
        answered: Deferred[_T] = Deferred()

        def task() -> None:
            try:
                answer = self._exchange(build, parse, timeout)
            except Exception as error:
                # Whatever it is, it must reach the one who waits and not end the thread.
                self._reactor.callFromThread(answered.errback, error)
            else:
                self._reactor.callFromThread(answered.callback, answer)

        self._tasks.put(task)
        if not self._running:
            self._running = True
            ThreadingHandler().spawn(self._run, name=f"pykafka {self._address}")
        return answered

    def close(self) -> Deferred[None]:
        """
        See L{IBrokerLink.close}.
        """
        if not self._closing:
            self._closing = True
            self._tasks.put(None)
            self._connection.wake()
            if not self._running:
                return succeed(None)
        return self._ended

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
        self._connection.disconnect()
        self._reactor.callFromThread(self._ended.callback, None)

    def _exchange(self, build: Callable[[], Sendable], parse: Callable[[memoryview], _T], timeout: float) -> _T:
        if self._closing:
            raise BusUnavailable(f"the connection to {self._address} is closed")
        data = build().get_bytes()
        try:
            answer = self._connection.exchange(data, self._connectTimeout, timeout)
        except OSError as error:
            raise BusUnavailable(f"{self._address}: {error}") from error
        try:
            return parseWith(parse, answer)
        except BadKafkaBytes:
            self._connection.disconnect()
            raise


def reasonOf(failure: Failure) -> str:
    """
    What went wrong, for an operator; a failure that is no L{BusError} is a fault of ours and is named by its type too.
    """
    error = failure.value
    return str(error) if isinstance(error, BusError) else f"{type(error).__name__}: {error}"
