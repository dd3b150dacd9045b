"""
The HTTP side: health, the bus read back, and messages for boxes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from binaryserver.bus.topics import Topics
from binaryserver.interfaces import IBus, ISessionStore
from binaryserver.ops.body import JSON, MAX_BODY, Bodies, Body, NoBody, mediaType
from binaryserver.ops.messages import Ask, Outlet, Posted
from binaryserver.ops.problem import problem, sendProblem
from binaryserver.ops.tail import Tail, TailQuery

_MAX_URI = 2048
"""bytes"""
_MAX_HEADERS = 100
_REQUEST_TIMEOUT = 60
"""s within which a request must have come whole, or the next one on a kept connection"""
_MAX_TAILS = 32
"""Each holds a reader of the bus, which may be a connection to a cluster."""


class _Channel(HTTPChannel):
    """
    One connection.
    """

    maxHeaders = _MAX_HEADERS

    def resetTimeout(self) -> None:
        """
        Nothing: a request's time is not prolonged by a byte of it now and then.
        """


class _Request(Request):
    """
    One request.
    """

    log = Logger()

    def gotLength(self, length: int | None) -> None:
        """
        See L{HTTPRequest.gotLength}.
        """
        # The request itself has none before it is whole.
        channel: Any = self.channel
        site: _Site = channel.site
        self.content = site.bodies.body() if mediaType(self) == JSON else NoBody()

    def process(self) -> None:
        """
        See L{HTTPRequest.process}.
        """
        if len(self.uri) > _MAX_URI:
            sendProblem(self, 414, f"more than {_MAX_URI} bytes")
        else:
            super().process()

    def processingFailed(self, reason: Failure) -> Failure:
        """
        See L{Request.processingFailed}.
        """
        self.log.failure("a request failed in an unforeseen way", reason)
        if self.startedWriting:
            self.loseConnection()
        else:
            sendProblem(self, 500, "this is the gateway's fault; its log says more")
        return reason


class _Missing(Resource):
    """
    Nothing is here, nor below.
    """

    def getChild(self, path: bytes, request: HTTPRequest) -> Resource:
        """
        See L{Resource.getChild}.
        """
        return self

    def render(self, request: Request) -> bytes:
        """
        See L{Resource.render}.
        """
        return problem(request, 404, "there is nothing here")


class _Folder(_Missing):
    """
    Only what it was given is here.
    """

    def getChild(self, path: bytes, request: HTTPRequest) -> Resource:
        """
        See L{Resource.getChild}.
        """
        return _Missing()


class _Page(_Folder):
    """
    One that answers GET and nothing else.
    """

    def render(self, request: Request) -> Any:
        """
        See L{Resource.render}.
        """
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("allow", "GET, HEAD")
            return problem(request, 405, "only GET and HEAD")
        return self.answer(request)

    def answer(self, request: Request) -> Any:
        """
        Answer a GET.
        """
        raise NotImplementedError


class _Livez(_Page):
    """
    C{/livez}: the reactor turns.
    """

    def answer(self, request: Request) -> bytes:
        """
        See L{_Page.answer}.
        """
        request.setHeader("content-type", "application/json")
        request.setHeader("cache-control", "no-store")
        return b'{"status": "ok"}\n'


class _TailPage(_Page):
    """
    C{/api/tail}: events, one JSON object a line.
    """

    def __init__(self, bus: IBus, topics: Topics, clock: Any) -> None:
        super().__init__()
        self._bus = bus
        self._topics = topics
        self._clock = clock
        self._open: set[Tail] = set()

    def answer(self, request: Request) -> Any:
        """
        See L{_Page.answer}.
        """
        try:
            query = TailQuery.parse(request.args or {}, self._topics)
        except ValueError as error:
            return problem(request, 400, str(error))
        if len(self._open) >= _MAX_TAILS:
            request.setHeader("retry-after", "30")
            return problem(request, 503, f"{_MAX_TAILS} are reading already")
        request.setHeader("content-type", "application/x-ndjson")
        request.setHeader("cache-control", "no-store")
        if request.method == b"HEAD":
            return b""
        tail = Tail(request, self._bus, self._topics, query, self._clock)
        self._open.add(tail)
        tail.start().addBoth(lambda _: self._open.discard(tail))
        return NOT_DONE_YET

    def end(self) -> None:
        """
        End every tail, before the bus stops.
        """
        for tail in list(self._open):
            tail.end()


class _MessagesPage(_Folder):
    """
    C{/api/messages}: takes messages for boxes.
    """

    def __init__(self, outlet: Outlet, clock: Any, nowMs: Callable[[], int]) -> None:
        super().__init__()
        self._outlet = outlet
        self._clock = clock
        self._nowMs = nowMs

    def render(self, request: Request) -> Any:
        """
        See L{Resource.render}.
        """
        if request.method != b"POST":
            request.setHeader("allow", "POST")
            return problem(request, 405, "only POST")
        if request.requestHeaders.hasHeader(b"origin"):
            # Browsers name the page that asks, and there is no page that should.
            return problem(request, 403, "messages are not taken from web pages")
        body = request.content
        if not isinstance(body, Body):
            return problem(request, 415, "the body is to be application/json")
        if body.status == 413:
            return problem(request, 413, f"the body has more than {MAX_BODY} bytes")
        if body.status:
            request.setHeader("retry-after", "5")
            return problem(request, body.status, "too many bodies are on their way already")
        try:
            ask = Ask.parse(body.getvalue(), self._nowMs())
        except ValueError as error:
            return problem(request, 400, str(error))
        body.close()
        Posted(request, ask, self._clock).run(self._outlet.send)
        return NOT_DONE_YET


class _Site(Site):
    """
    The site of C{--http}.

    @ivar bodies: of the requests that are coming
    """

    # Itself, without Twisted's wrapper that would negotiate HTTP/2.
    protocol = _Channel  # type: ignore[assignment]
    requestFactory = _Request
    noisy = False
    tails: _TailPage
    bodies: Bodies

    def stopFactory(self) -> None:
        """
        Its port is closed: answers that would never end do so now.
        """
        super().stopFactory()
        self.tails.end()

    def log(self, request: HTTPRequest) -> None:
        """
        Nothing: an asset may stand in the address of a request, and probes would fill the log.
        """


def makeSite(
    bus: IBus,
    store: ISessionStore,
    topics: Topics,
    clock: Any,
    nowMs: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Site:
    """
    The site of C{--http}.

    @param bus: started, or about to be: until then tails and messages are answered with 503
    @param store: likewise
    @param clock: the reactor
    @param nowMs: gives the Unix time, ms
    """
    root, api = _Folder(), _Folder()
    root.putChild(b"livez", _Livez())
    root.putChild(b"api", api)
    site = _Site(root, timeout=_REQUEST_TIMEOUT, reactor=clock)
    site.bodies = Bodies()
    site.tails = _TailPage(bus, topics, clock)
    api.putChild(b"tail", site.tails)
    api.putChild(b"messages", _MessagesPage(Outlet(bus, store, topics.downlink), clock, nowMs))
    return site
