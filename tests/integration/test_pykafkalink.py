"""
L{binaryserver.bus.pykafka_link}: real sockets and threads, on loopback, against servers that answer and that do not.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet import ssl as tls
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.protocols.basic import Int32StringReceiver
from twisted.trial.unittest import TestCase

from binaryserver.bus.pykafka_link import BrokerLink
from binaryserver.bus.pykafka_options import Address
from binaryserver.bus.pykafka_records import BadKafkaBytes
from binaryserver.bus.pykafka_requests import VersionsRequest, VersionsResponse
from binaryserver.bus.pykafkabus import PykafkaBus
from binaryserver.errors import BusUnavailable
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext
from tests.bus.fakekafka import FakeKafka
from tests.certificates import Authority, replaceFile

reactor: Any = globalReactor


class Answering(Int32StringReceiver):
    """
    A L{FakeKafka} behind a socket.
    """

    MAX_LENGTH = 1 << 27

    def __init__(self, kafka: FakeKafka) -> None:
        self.kafka = kafka

    def stringReceived(self, string: bytes) -> None:
        """
        Answer a request.
        """
        answer = self.kafka.answer(1, struct.pack("!i", len(string)) + string)
        if answer is None:
            reactor.callLater(0.05, self.stringReceived, string)
        elif self.transport is not None:
            self.sendString(bytes(4) + answer)


class Saying(Protocol):
    """
    Says something to whatever it hears, byte by byte.
    """

    def __init__(self, words: bytes, pause: float, close: bool) -> None:
        self._words = words
        self._pause = pause
        self._close = close

    def dataReceived(self, data: bytes) -> None:
        """
        Say the next byte.
        """
        assert self.transport is not None
        if self._words:
            self.transport.write(self._words[:1])
            self._words = self._words[1:]
            self._next = reactor.callLater(self._pause, self.dataReceived, b"")
        elif self._close:
            self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        """
        Say no more.
        """
        if self._words and hasattr(self, "_next") and self._next.active():
            self._next.cancel()


class LinkTests(TestCase):
    """
    L{BrokerLink}.
    """

    def listen(self, make: Any, context: Any = None) -> Address:
        """
        Serve on a free port.
        """
        factory: Any = Factory.forProtocol(Protocol)
        factory.buildProtocol = lambda _: make()
        if context is None:
            port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        else:
            port = reactor.listenSSL(0, factory, context, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return Address("127.0.0.1", port.getHost().port)

    def link(self, address: Address) -> BrokerLink:
        """
        A link that is closed at the end of the test.
        """
        link = BrokerLink(reactor, address, 1.0, None)
        self.addCleanup(link.close)
        return link

    async def failure(self, link: BrokerLink, timeout: float = 1.0) -> BusUnavailable:
        """
        The error of a question.
        """
        try:
            await link.ask(VersionsRequest, VersionsResponse, timeout)
        except BusUnavailable as error:
            return error
        raise self.failureException("it was answered")

    async def test_answer(self) -> None:
        """
        Questions are answered in their order over one connection, and parsed.
        """
        made: list[Answering] = []

        def make() -> Answering:
            made.append(Answering(FakeKafka(reactor)))
            return made[-1]

        link = self.link(self.listen(make))
        answers: list[Any] = await gatherResults(
            [link.ask(VersionsRequest, VersionsResponse, 5.0) for _ in range(20)], consumeErrors=True
        )
        self.assertEqual({answer.api_versions[0][2] for answer in answers}, {99})
        self.assertEqual(len(made), 1)

    async def test_refused(self) -> None:
        """
        Nobody listens: the reason names the address.
        """
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = Address("127.0.0.1", unused.getsockname()[1])
            error = await self.failure(self.link(address))
        self.assertIn(str(address), str(error))
        self.assertIn("refused", str(error).lower())

    async def test_silent(self) -> None:
        """
        A server that takes a question and says nothing costs the timeout, and the next question a new connection.
        """
        link = self.link(self.listen(lambda: Saying(b"", 0, False)))
        before = time.monotonic()
        await self.failure(link, 0.3)
        self.assertTrue(0.25 <= time.monotonic() - before < 3.0)
        await self.failure(link, 0.3)

    async def test_drip(self) -> None:
        """
        The timeout is for the whole answer: bytes that drip do not prolong it.
        """
        link = self.link(self.listen(lambda: Saying(struct.pack("!i", 100) + bytes(100), 0.05, False)))
        before = time.monotonic()
        await self.failure(link, 0.4)
        self.assertTrue(0.35 <= time.monotonic() - before < 3.0)

    async def test_closes(self) -> None:
        """
        A server that closes fails the question at once, in the middle of an answer too.
        """
        for words in (b"", b"\0\0", struct.pack("!i", 100) + bytes(7)):
            link = self.link(self.listen(lambda words=words: Saying(words, 0, True)))
            self.assertIn("closed", str(await self.failure(link, 5.0)))

    async def test_notKafka(self) -> None:
        """
        An answer of an absurd length is not waited for.
        """
        for words in (b"HTTP/1.1 400 Bad Request", struct.pack("!i", -5), struct.pack("!i", 3)):
            link = self.link(self.listen(lambda words=words: Saying(words, 0, False)))
            self.assertIn("not a Kafka broker", str(await self.failure(link, 5.0)))

    async def test_garbage(self) -> None:
        """
        An answer that cannot be read is a typed error.
        """
        link = self.link(self.listen(lambda: Saying(struct.pack("!i", 10) + bytes(4) + b"\0\0\0\0\0\7", 0, False)))
        try:
            await link.ask(VersionsRequest, VersionsResponse, 5.0)
        except BadKafkaBytes:
            return
        self.fail("it was read")

    async def test_close(self) -> None:
        """
        Closing wakes the thread, fails what is asked and what waits behind it, and ends the thread.
        """
        link = BrokerLink(reactor, self.listen(lambda: Saying(b"", 0, False)), 1.0, None)
        asked = [self.failure(link, 30.0) for _ in range(3)]
        waiting = [Deferred.fromCoroutine(each) for each in asked]
        await deferLater(reactor, 0.2, lambda: None)
        before = time.monotonic()
        await link.close()
        errors = await gatherResults(waiting)
        self.assertEqual(len(errors), 3)
        self.assertLess(time.monotonic() - before, 5.0)
        self.assertIn("closed", str(await self.failure(link)))
        await deferLater(reactor, 0.05, lambda: None)
        self.assertEqual([each.name for each in threading.enumerate() if "pykafka" in each.name], [])

    async def test_tls(self) -> None:
        """
        A whole bus over TLS; and a server whose authority is another is refused, with the reason.
        """
        authority, stranger = Authority(), Authority("Stranger")
        directory = self.mktemp()
        os.mkdir(directory)
        ours, theirs = os.path.join(directory, "ca.pem"), os.path.join(directory, "other.pem")
        replaceFile(ours, authority.certificatePem())
        replaceFile(theirs, stranger.certificatePem())
        certificate, key = authority.issueServer("localhost").write(directory, "server")
        context = tls.DefaultOpenSSLContextFactory(key, certificate)
        kafka = FakeKafka(reactor)
        address = self.listen(lambda: Answering(kafka), context)
        kafka.brokers = {1: address}
        kafka.leaders["t"] = [1, 1]
        spec = f"pykafka://{address}?security.protocol=ssl&ssl.ca.location="
        bus = PykafkaBus(spec + ours, BackEndContext(reactor, "--bus", topics=("t",), startTimeout=5.0))
        self.addCleanup(bus.stop)
        await bus.start()
        await bus.publish("t", 1, [Record(b"k", b"v")])
        self.assertEqual([record.value for record in kafka.records("t", 1)], [b"v"])
        distrusting = PykafkaBus(spec + theirs, BackEndContext(reactor, "--bus", topics=("t",), startTimeout=1.0))
        self.addCleanup(distrusting.stop)
        try:
            await distrusting.start()
        except BusUnavailable as error:
            self.assertIn("certificate verify failed", str(error))
        else:
            self.fail("it trusted a stranger")
