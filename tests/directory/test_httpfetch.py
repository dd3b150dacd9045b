"""
Tests for L{binaryserver.directory.httpfetch}, without a network: an agent whose answers are given by hand, and a clock.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError, ConnectionRefusedError, DNSLookupError
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from binaryserver.directory import httpfetch
from binaryserver.directory.httpfetch import LONGEST_DELAY, LONGEST_PAUSE, MAX_BODY, Answers, Fetcher
from binaryserver.directory.httpsettings import HttpSettings
from binaryserver.directory.tokenfile import TokenFile
from binaryserver.errors import ConfigError, DirectoryUnavailable
from tests.certificates import replaceFile
from tests.directory.samples import LogKeeper
from tests.harness import HandReactor

BASE = "http://directory.example/v1"


@implementer(IResponse)
class Answer:
    """
    An answer whose body comes when the test says so.

    @ivar transport: of its body
    """

    version, request, previousResponse, phrase = (b"HTTP", 1, 1), None, None, b""

    def __init__(self, code: int, **headers: str) -> None:
        self.code = code
        self.headers = Headers({name.replace("_", "-"): [value] for name, value in headers.items()})
        self.length = 0
        self.transport = StringTransport()
        self.protocol: Protocol

    def setPreviousResponse(self, response: IResponse) -> None:
        """
        See L{IResponse.setPreviousResponse}.
        """

    def deliverBody(self, protocol: Any) -> None:
        """
        See L{IResponse.deliverBody}.
        """
        self.protocol = protocol
        protocol.makeConnection(self.transport)

    def end(self, body: bytes = b"", reason: Exception | None = None) -> None:
        """
        The body, and its end.
        """
        for place in range(0, len(body), 65536):
            self.protocol.dataReceived(body[place : place + 65536])
        self.protocol.connectionLost(Failure(reason or ResponseDone()))


@implementer(IAgent)
class HandAgent:
    """
    Keeps requests until the test answers them.

    @ivar asked: the URLs
    @ivar sent: headers
    @ivar cancelled: how many were
    @ivar cancellation: what those fail with
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sent: list[Headers] = []
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0
        self.cancellation: Exception = ResponseNeverReceived([Failure(CancelledError())])

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Deferred[Any]:
        """
        See L{IAgent.request}.
        """
        assert method == b"GET"
        self.asked.append(uri.decode())
        self.sent.append(headers)
        waiting: Deferred[Any] = Deferred(self._cancel)
        self.waiting.append(waiting)
        return waiting

    def _cancel(self, waiting: Deferred[Any]) -> None:
        self.cancelled += 1
        waiting.errback(self.cancellation)

    def answer(self, code: int, /, body: bytes = b"", **headers: str) -> None:
        """
        Answer the last request, whole.
        """
        answer = Answer(code, **headers)
        self.waiting[-1].callback(answer)
        answer.end(body)

    def fail(self, error: Exception) -> None:
        """
        Fail the last request.
        """
        self.waiting[-1].errback(error)


class FetcherTestCase(SynchronousTestCase):
    """
    A fetcher whose delays are as long as they may be.
    """

    timeoutOption, retries, concurrency, tokenFile = 3.0, 2, 8, ""

    def setUp(self) -> None:
        """
        See L{FetcherTestCase}.
        """
        self.reactor = HandReactor()
        self.agent = HandAgent()
        settings = HttpSettings(BASE, self.timeoutOption, self.retries, self.concurrency, self.tokenFile)
        self.token = TokenFile(self.reactor, settings.tokenFile, "--directory")
        self.fetcher = Fetcher(
            self.reactor, settings, "--directory", self.token, self.agent, jitter=lambda least, most: most
        )

    def get(self, path: str = "/a", query: str = "") -> Deferred[bytes | None]:
        """
        Ask.
        """
        return Deferred.fromCoroutine(self.fetcher.get(path, query))

    def unavailable(self, got: Deferred[Any]) -> str:
        """
        What it failed with.
        """
        text = str(self.failureResultOf(got, DirectoryUnavailable).value)
        self.assertTrue(text.startswith(f"--directory: {BASE}/"), text)
        return text.partition(f"{BASE}/")[2]

    def tries(self) -> int:
        """
        How many requests were made since the last time.
        """
        count = len(self.agent.asked)
        self.agent.asked.clear()
        return count


class FetcherTests(FetcherTestCase):
    """
    One request after another.
    """

    def test_good(self) -> None:
        """
        A document, or none; nothing is left over.
        """
        got = self.get("/a/b", "page=1")
        self.agent.answer(200, b"{}")
        self.assertEqual(self.successResultOf(got), b"{}")
        self.assertEqual(self.agent.asked, [f"{BASE}/a/b?page=1"])
        got = self.get()
        self.agent.answer(404, b'{"type": "about:blank"}')
        self.assertIsNone(self.successResultOf(got))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_headers(self) -> None:
        """
        It asks for JSON as it is, and keeps no cookies.
        """
        for _ in range(2):
            self.get()
            headers = self.agent.sent[-1]
            self.assertEqual(headers.getRawHeaders("accept"), ["application/json"])
            self.assertEqual(headers.getRawHeaders("accept-encoding"), ["identity"])
            for name in ("authorization", "if-none-match", "cookie"):
                self.assertFalse(headers.hasHeader(name), name)
            self.agent.answer(200, b"{}", set_cookie="a=b")

    def test_triesAgain(self) -> None:
        """
        What fails for now is tried again, after delays whose bound doubles; the answer then counts.
        """
        for passing in (
            lambda: self.agent.fail(ConnectionRefusedError()),
            lambda: self.agent.fail(ResponseFailed([Failure(ConnectionRefusedError())])),
            *(lambda code=code: self.agent.answer(code) for code in (408, 425, 429, 500, 502, 503, 504, 599)),
        ):
            got = self.get()
            passing()
            self.assertEqual(self.tries(), 1)
            self.reactor.advance(0.19)
            self.assertEqual(self.tries(), 0)
            self.reactor.advance(0.02)
            self.assertEqual(self.tries(), 1)
            passing()
            self.reactor.advance(0.39)
            self.assertEqual(self.tries(), 0)
            self.reactor.advance(0.02)
            self.agent.answer(200, b"{}")
            self.assertEqual(self.successResultOf(got), b"{}")
            self.tries()

    def test_givesUp(self) -> None:
        """
        After so many tries it says why the last failed, with the URL and without its query.
        """
        got = self.get("/a", "page_token=secret")
        for _ in range(3):
            self.agent.answer(503, b"<html>secret</html>")
            self.reactor.advance(1)
        self.assertEqual(self.tries(), 3)
        self.assertEqual(self.unavailable(got), "a: it answers 503")

    def test_jitter(self) -> None:
        """
        Delays are drawn from nothing up to their bound, which ends growing.
        """
        drawn: list[tuple[float, float]] = []

        def draw(least: float, most: float) -> float:
            drawn.append((least, most))
            return 0.0

        settings = HttpSettings(BASE, retries=10)
        fetcher = Fetcher(self.reactor, settings, "--directory", self.token, self.agent, jitter=draw)
        Deferred.fromCoroutine(fetcher.get("/a")).addErrback(lambda _: None)
        for _ in range(11):
            self.agent.answer(500)
            self.reactor.advance(0)
        self.assertEqual([most for _, most in drawn], [0.2, 0.4, 0.8, 1.6, 3.2, *[LONGEST_DELAY] * 5])
        self.assertEqual({least for least, _ in drawn}, {0.0})

    def test_lasting(self) -> None:
        """
        What will be so the next time is not tried again.
        """
        for code, reason in {
            301: "it answers 301: it is not followed",
            302: "it answers 302: it is not followed",
            304: "it answers 304",
            307: "it answers 307: it is not followed",
            400: "it answers 400",
            401: "it answers 401: it does not accept our token",
            403: "it answers 403: it does not accept our token",
            410: "it answers 410",
            204: "it answers 204",
        }.items():
            got = self.get()
            self.agent.answer(code, location="http://elsewhere.example/")
            self.assertIn(reason, self.unavailable(got))
            self.assertEqual(self.tries(), 1)

    def test_encoded(self) -> None:
        """
        An answer that is compressed is not unpacked, and its connection is dropped.
        """
        got = self.get()
        answer = Answer(200, content_encoding="gzip")
        self.agent.waiting[-1].callback(answer)
        self.assertIn("compressed", self.unavailable(got))
        self.assertEqual(answer.transport.producerState, "stopped")

    def test_oversize(self) -> None:
        """
        An answer may have so many bytes; with one more its connection is dropped while it still comes.
        """
        got = self.get()
        self.agent.answer(200, b"x" * MAX_BODY)
        self.assertEqual(len(self.successResultOf(got) or b""), MAX_BODY)
        got = self.get()
        answer = Answer(200)
        self.agent.waiting[-1].callback(answer)
        answer.protocol.dataReceived(b"x" * MAX_BODY)
        self.assertNoResult(got)
        answer.protocol.dataReceived(b"x")
        self.assertIn(f"more than {MAX_BODY} bytes", self.unavailable(got))
        self.assertEqual(answer.transport.producerState, "stopped")
        answer.end(b"more", ConnectionRefusedError())

    def test_oversizeError(self) -> None:
        """
        An error's page of any size is that error.
        """
        got = self.get()
        self.agent.answer(400, b"x" * 200_000)
        self.assertEqual(self.unavailable(got), "a: it answers 400")
        got = self.get()
        self.agent.answer(404, b"x" * 200_000)
        self.assertIsNone(self.successResultOf(got))

    def test_silence(self) -> None:
        """
        Each try ends after the timeout, before the answer begins or within it, and drops its connection.
        """
        got = self.get()
        self.reactor.advance(3)
        self.assertEqual(self.agent.cancelled, 1)
        self.reactor.advance(0.2)
        self.assertEqual(self.tries(), 2)
        answer = Answer(200)
        self.agent.waiting[-1].callback(answer)
        answer.protocol.dataReceived(b"{")
        self.reactor.advance(3)
        self.assertEqual(answer.transport.producerState, "stopped")
        answer.end(b"}")
        self.reactor.advance(0.4)
        self.agent.answer(200, b"[]")
        self.assertEqual(self.successResultOf(got), b"[]")
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_allOfIt(self) -> None:
        """
        All tries together take no longer than as many timeouts, delays included.
        """
        got = self.get()
        for _ in range(90):
            self.assertNoResult(got)
            self.reactor.advance(0.1)
        self.reactor.advance(0.1)
        self.assertEqual(self.unavailable(got), "a: no answer within 3 s")
        self.assertEqual(self.agent.cancelled, 3)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """
        Who does not want the answer any more ends the request, wherever it is, and no other is made.
        """
        for error in (CancelledError(), DNSLookupError(), ConnectingCancelledError(None)):
            self.agent.cancellation = error
            got = self.get()
            got.cancel()
            self.failureResultOf(got, CancelledError)
        got = self.get()
        answer = Answer(200)
        self.agent.waiting[-1].callback(answer)
        got.cancel()
        self.failureResultOf(got, CancelledError)
        self.assertEqual(answer.transport.producerState, "stopped")
        got = self.get()
        self.agent.answer(500)
        got.cancel()
        self.failureResultOf(got, CancelledError)
        self.assertEqual(self.tries(), 5)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class PauseTests(FetcherTestCase):
    """
    C{Retry-After}.
    """

    def test_honoured(self) -> None:
        """
        No request is made before the time, not those of others either.
        """
        got, headers = self.get(), {"retry_after": "2"}
        self.agent.answer(429, b"", **headers)
        other = self.get("/b")
        self.reactor.advance(1.9)
        self.assertEqual(self.tries(), 1)
        self.reactor.advance(0.1)
        self.assertEqual(self.tries(), 2)
        for waiting in self.agent.waiting[-2:]:
            answer = Answer(200)
            waiting.callback(answer)
            answer.end(b"{}")
        self.assertEqual(self.successResultOf(got), b"{}")
        self.assertEqual(self.successResultOf(other), b"{}")

    def test_tooLong(self) -> None:
        """
        Who could not be answered in time for the pause fails at once; the pause is bounded.
        """
        got, headers = self.get(), {"retry_after": "86400"}
        self.agent.answer(503, b"", **headers)
        self.reactor.advance(0.2)
        self.assertIn("wants to be left alone for 60 s", self.unavailable(got))
        self.reactor.advance(LONGEST_PAUSE - 10)
        self.assertIn("left alone for 10 s", self.unavailable(self.get()))
        self.reactor.advance(9.8)
        self.assertEqual(self.tries(), 1)
        self.get()
        self.assertEqual(self.tries(), 1)

    def test_date(self) -> None:
        """
        A date is meant by the clock that dated the answer.
        """
        self.get()
        headers = {"retry_after": "Sun, 06 Nov 1994 08:49:40 GMT", "date": "Sun, 06 Nov 1994 08:49:37 GMT"}
        self.agent.answer(503, b"", **headers)
        self.reactor.advance(2.9)
        self.assertEqual(self.tries(), 1)
        self.reactor.advance(0.2)
        self.assertEqual(self.tries(), 1)

    def test_nonsense(self) -> None:
        """
        What cannot be understood is as if it were not there.
        """
        for text in ("", "-1", "1.5", "soon", "9" * 400, "\xb2", "Sun, 06 Foo 1994 08:49:40 GMT", "1 2 3 4 5 6"):
            got, headers = self.get(), {"retry_after": text, "date": "Sun, 06 Nov 1994 08:49:37 GMT"}
            self.agent.answer(503, b"", **headers)
            self.reactor.advance(0.2)
            self.assertEqual(self.tries(), 2, text)
            self.agent.answer(200, b"{}")
            self.successResultOf(got)


class TurnTests(FetcherTestCase):
    """
    Many at once.
    """

    concurrency = 2

    def test_turns(self) -> None:
        """
        So many are under way at once, the others in their order; who waits before another try holds nobody up.
        """
        got = [self.get(f"/{number}") for number in range(5)]
        self.assertEqual(self.agent.asked, [f"{BASE}/0", f"{BASE}/1"])
        self.agent.answer(500)
        self.assertEqual(self.agent.asked[2:], [f"{BASE}/2"])
        self.agent.answer(200, b"2")
        self.agent.answer(200, b"3")
        self.assertEqual(self.successResultOf(got[3]), b"3")
        self.agent.answer(200, b"4")
        self.assertNoResult(got[1])
        self.reactor.advance(0.2)
        self.assertEqual(self.agent.asked[-1], f"{BASE}/1")

    def test_neverItsTurn(self) -> None:
        """
        Who waits for his turn does not wait for ever, and then does not take one.
        """
        for number in range(2):
            self.get(f"/{number}").addErrback(lambda _: None)
        late = self.get("/late")
        self.reactor.pump([0.1] * 29)
        for _ in range(2):
            self.get("/more").addErrback(lambda _: None)
        self.reactor.pump([0.1] * 200)
        self.assertIn("late: ", self.unavailable(late))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        asked = self.tries()
        self.get("/a")
        self.assertEqual(self.tries(), 1, asked)

    def test_tooMany(self) -> None:
        """
        No more than so many wait; those fail at once.
        """
        self.patch(httpfetch, "MAX_WAITING", 5)
        got = [self.get() for _ in range(5)]
        self.assertIn("5 requests are under way already", self.unavailable(self.get()))
        got[4].cancel()
        self.failureResultOf(got[4], CancelledError)
        self.assertNoResult(self.get())


class AnswersTests(FetcherTestCase):
    """
    ETags.
    """

    def tagged(self, tag: str, body: bytes = b"{}", path: str = "/a") -> None:
        """
        An answer with a tag.
        """
        got = self.get(path)
        self.agent.answer(200, body, etag=tag)
        self.assertEqual(self.successResultOf(got), body)

    def sentTag(self) -> bytes | None:
        """
        What the last request asked.
        """
        tags = self.agent.sent[-1].getRawHeaders(b"if-none-match")
        return None if tags is None else tags[0]

    def test_unchanged(self) -> None:
        """
        What has not changed is what it was, as often as it is asked for.
        """
        for tag in ('"abc"', 'W/"abc"', '""'):
            self.tagged(tag, b'{"a": 1}')
            for _ in range(3):
                got = self.get()
                self.assertEqual(self.sentTag(), tag.encode())
                self.agent.answer(304, etag=tag)
                self.assertEqual(self.successResultOf(got), b'{"a": 1}')
        self.assertEqual(self.fetcher.reused, 9)

    def test_changed(self) -> None:
        """
        What has changed is what it is now; without a tag, what was before is forgotten; what is gone is too.
        """
        self.tagged('"1"', b"1")
        self.tagged('"2"', b"2")
        self.get()
        self.assertEqual(self.sentTag(), b'"2"')
        self.agent.answer(200, b"3")
        self.get()
        self.assertIsNone(self.sentTag())
        self.agent.answer(200, b"4", etag='"4"')
        self.get()
        self.agent.answer(404)
        self.get()
        self.assertIsNone(self.sentTag())

    def test_byUrl(self) -> None:
        """
        Each URL has its own, its query included.
        """
        self.tagged('"a"')
        self.get("/b")
        self.assertIsNone(self.sentTag())
        self.get("/a", "page=2")
        self.assertIsNone(self.sentTag())
        self.get("/a")
        self.assertEqual(self.sentTag(), b'"a"')

    def test_failure(self) -> None:
        """
        An error in between changes nothing.
        """
        self.tagged('"a"', b"1")
        got = self.get()
        self.agent.answer(500, b"", etag='"b"')
        self.reactor.advance(0.2)
        self.assertEqual(self.sentTag(), b'"a"')
        self.agent.answer(304)
        self.assertEqual(self.successResultOf(got), b"1")

    def test_badTags(self) -> None:
        """
        What is no tag is not sent back.
        """
        for tag in ("abc", '"a"b"', '"a b"', '"' + "x" * 300 + '"', "", "*", 'w/"a"'):
            self.tagged(tag)
            self.get()
            self.assertIsNone(self.sentTag(), tag)
            self.agent.answer(200, b"{}")

    def test_bounded(self) -> None:
        """
        The least recently used go when there are too many, or too many bytes of them.
        """
        answers = Answers(3, 100)
        for name in "abc":
            answers.put(name, b'"t"', b"x" * 10)
        answers.get("a")
        answers.put("d", b'"t"', b"x" * 10)
        self.assertEqual([name for name in "abcd" if answers.get(name)], ["a", "c", "d"])
        answers.put("e", b'"t"', b"x" * 85)
        self.assertEqual([name for name in "abcde" if answers.get(name)], ["d", "e"])
        self.assertEqual(answers.size, 95)
        answers.put("f", b'"t"', b"x" * 101)
        self.assertEqual([name for name in "abcdef" if answers.get(name)], [])
        self.assertEqual(answers.size, 0)
        answers.put("a", b'"t"', b"xx")
        answers.put("a", b"", b"xx")
        answers.drop("a")
        self.assertEqual(answers.size, 0)


class TokenTests(FetcherTestCase):
    """
    The bearer token.
    """

    def setUp(self) -> None:
        """
        A file with one.
        """
        self.tokenFile = self.mktemp()
        replaceFile(self.tokenFile, b"first-token\n")
        super().setUp()
        self.logged = LogKeeper(self).events
        started = Deferred.fromCoroutine(self.token.start())
        self.reactor.pump([0, 0, 0])
        self.successResultOf(started)

    def sentToken(self) -> bytes:
        """
        What a request bears.
        """
        self.get()
        self.reactor.pump([0, 0, 0])
        self.agent.answer(404)
        sent = self.agent.sent[-1].getRawHeaders(b"authorization")
        assert sent is not None
        return bytes(sent[0])

    def test_sent(self) -> None:
        """
        It is sent with every request, and read again when it changes.
        """
        self.assertEqual(self.sentToken(), b"Bearer first-token")
        replaceFile(self.tokenFile, b"  second.token==  ")
        self.reactor.advance(1)
        self.assertEqual(self.sentToken(), b"Bearer second.token==")

    def test_unusable(self) -> None:
        """
        A file that has none any more is an error, once; the token of before counts on.
        """
        for content in (b"", b"two tokens", b"a\nb", b"\xff", b"x" * 8193):
            replaceFile(self.tokenFile, content)
            for _ in range(3):
                self.reactor.advance(1)
                self.assertEqual(self.sentToken(), b"Bearer first-token")
        complaints = [event["complaint"] for event in self.logged if "complaint" in event]
        self.assertEqual(len(complaints), 2, complaints)
        self.assertNotIn("first-token", repr(self.logged))

    def test_start(self) -> None:
        """
        The start needs a file with a token, which no error shows.
        """
        for content, reason in {
            b"": "is empty",
            b" \n": "is empty",
            b"hunter2 \x01": "does not hold one bearer token",
        }.items():
            replaceFile(self.tokenFile, content)
            self.assertIn(reason, self.startError(self.tokenFile))
        self.assertIn("No such file", self.startError("/nowhere/token"))
        self.assertIn("Is a directory", self.startError("/"))

    def startError(self, path: str) -> str:
        """
        What the start fails with.
        """
        started = Deferred.fromCoroutine(TokenFile(self.reactor, path, "--directory").start())
        self.reactor.pump([0, 0, 0])
        text = str(self.failureResultOf(started, ConfigError).value)
        self.assertTrue(text.startswith("--directory: token-file: "), text)
        self.assertNotIn("hunter2", text)
        return text
