"""
The HTTP side: health, the bus read back, messages for boxes, changes of the directory, and the boxes themselves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import Metric
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from binaryserver.bus.topics import Topics
from binaryserver.directory.cache import Directory
from binaryserver.interfaces import IBus, ISessionStore
from binaryserver.metrics.page import MetricsPage
from binaryserver.model import BoxKey
from binaryserver.ops.access import Access, Denied
from binaryserver.ops.body import JSON, Bodies, NoBody, mediaType
from binaryserver.ops.boxes import Boxes
from binaryserver.ops.boxpages import BoxesPage
from binaryserver.ops.changes import parseChange, tellChange
from binaryserver.ops.control import Control, DrainPage, LogsPage
from binaryserver.ops.disconnecting import Disconnect, Disconnector
from binaryserver.ops.erasing import Eraser
from binaryserver.ops.health import Health, asReport
from binaryserver.ops.messages import Ask, sendMessage
from binaryserver.ops.outlet import Outlet, Posted
from binaryserver.ops.pages import Folder, GetPage, PostPage
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
        # Of somebody who may do nothing here, nothing is kept.
        isKept = mediaType(self) == JSON and site.access.judge(self) is None
        self.content = site.bodies.body() if isKept else NoBody()

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


class _Livez(GetPage):
    """
    C{/livez}: the reactor turns.
    """

    def answer(self, request: Request) -> bytes:
        """
        See L{GetPage.answer}.
        """
        request.setHeader("content-type", "application/json")
        request.setHeader("cache-control", "no-store")
        return b'{"status": "ok"}\n'


class _Readyz(GetPage):
    """
    C{/readyz}: whether boxes may be sent here.
    """

    def __init__(self, health: Health) -> None:
        super().__init__()
        self._health = health

    def answer(self, request: Request) -> bytes:
        """
        See L{GetPage.answer}.
        """
        isReady, report = asReport(self._health.checks())
        request.setResponseCode(200 if isReady else 503)
        request.setHeader("content-type", "application/json")
        request.setHeader("cache-control", "no-store")
        return json.dumps(report).encode() + b"\n"


class _TailPage(GetPage):
    """
    C{/api/tail}: events, one JSON object a line.
    """

    def __init__(self, bus: IBus, topics: Topics, clock: Any, published: Callable[[BoxKey], BoxKey]) -> None:
        super().__init__()
        self._bus = bus
        self._topics = topics
        self._published = published
        self._clock = clock
        self._open: set[Tail] = set()

    def answer(self, request: Request) -> Any:
        """
        See L{GetPage.answer}.
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
        tail = Tail(request, self._bus, self._topics, query, self._clock, self._published)
        self._open.add(tail)
        tail.start().addBoth(lambda _: self._open.discard(tail))
        return NOT_DONE_YET

    def end(self) -> None:
        """
        End every tail, before the bus stops.
        """
        for tail in list(self._open):
            tail.end()


class _MessagesPage(PostPage):
    """
    C{/api/messages}: takes messages for boxes.
    """

    def __init__(self, outlet: Outlet, store: ISessionStore, topic: str, clock: Any, nowMs: Callable[[], int]) -> None:
        super().__init__()
        self._outlet = outlet
        self._store = store
        self._topic = topic
        self._clock = clock
        self._nowMs = nowMs

    def take(self, request: Request, body: bytes) -> Any:
        """
        See L{PostPage.take}.
        """
        ask = Ask.parse(body, self._nowMs())
        late = f"message {ask.id} may or may not be published: the bus did not take it"
        Posted(request, self._clock, 202, late).run(sendMessage(ask, self._outlet, self._store, self._topic))
        return NOT_DONE_YET


class _ChangesPage(PostPage):
    """
    C{/api/directory/changes}: takes word of what has changed in the directory.
    """

    def __init__(self, outlet: Outlet, topic: str, clock: Any) -> None:
        super().__init__()
        self._outlet = outlet
        self._topic = topic
        self._clock = clock

    def take(self, request: Request, body: bytes) -> Any:
        """
        See L{PostPage.take}.
        """
        change = parseChange(body)
        late = "the change may or may not be published: the bus did not take it"
        Posted(request, self._clock, 202, late).run(tellChange(change, self._outlet, self._topic))
        return NOT_DONE_YET


class _Guarded(Folder):
    """
    Nothing below it is for everybody, nor is what is not there.
    """

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access

    def getChildWithDefault(self, path: bytes, request: Request) -> Resource:
        """
        See L{Resource.getChildWithDefault}.
        """
        denied = self._access.judge(request)
        return super().getChildWithDefault(path, request) if denied is None else _Denied(self._access, denied)

    def render(self, request: Request) -> Any:
        """
        See L{Resource.render}.
        """
        denied = self._access.judge(request)
        return super().render(request) if denied is None else self._access.deny(request, denied)


class _Denied(Resource):
    """
    What a request finds that may not be served.
    """

    isLeaf = True

    def __init__(self, access: Access, denied: Denied) -> None:
        super().__init__()
        self._access = access
        self._why = denied

    def render(self, request: Request) -> Any:
        """
        See L{Resource.render}.
        """
        return self._access.deny(request, self._why)


class _Site(Site):
    """
    The site of C{--http}.

    @ivar bodies: of the requests that are coming
    @ivar access: who may ask
    """

    # Itself, without Twisted's wrapper that would negotiate HTTP/2.
    protocol = _Channel  # type: ignore[assignment]
    requestFactory = _Request
    noisy = False
    tails: _TailPage
    boxes: BoxesPage
    bodies: Bodies
    access: Access

    def stopFactory(self) -> None:
        """
        Its port is closed: answers that would never end do so now.
        """
        super().stopFactory()
        self.tails.end()
        self.boxes.end()

    def log(self, request: HTTPRequest) -> None:
        """
        Nothing: an asset may stand in the address of a request, and probes would fill the log.
        """


def _nobody(incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
    return succeed(None)


def _unchanged(box: BoxKey) -> BoxKey:
    return box


def makeSite(
    bus: IBus,
    store: ISessionStore,
    topics: Topics,
    clock: Any,
    nowMs: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    access: Access | None = None,
    published: Callable[[BoxKey], BoxKey] = _unchanged,
    elsewhere: Sequence[str] = (),
    health: Health | None = None,
    control: Control | None = None,
    gather: Callable[[], Deferred[Iterable[Metric]]] | None = None,
    known: Directory | None = None,
    disconnect: Disconnect = _nobody,
) -> Site:
    """
    The site of C{--http}.

    @param bus: started, or about to be: until then tails and messages are answered with 503
    @param store: likewise
    @param clock: the reactor
    @param nowMs: gives the Unix time, ms
    @param access: who may ask for anything but its health; L{None}: everybody, under loopback's names
    @param published: the name that a box's events may have beside its own: its pseudonym, if it can have any
    @param elsewhere: where else events of boxes are, each as words for a person
    @param health: of the process; L{None}: one that only starts
    @param control: of the process; L{None}: nothing of it can be changed
    @param gather: gives the families of C{/metrics}; L{None}: there is no such page
    @param known: which accounts and boxes there are
    @param disconnect: closes the link of a box, whichever instance has it
    """
    root, directory = Folder(), Folder()
    access = access or Access(clock)
    api = _Guarded(access)
    root.putChild(b"livez", _Livez())
    root.putChild(b"readyz", _Readyz(health or Health()))
    root.putChild(b"api", api)
    if gather is not None:
        root.putChild(b"metrics", MetricsPage(gather, access))
    site = _Site(root, timeout=_REQUEST_TIMEOUT, reactor=clock)
    site.bodies = Bodies()
    site.access = access
    site.tails = _TailPage(bus, topics, clock, published)
    outlet = Outlet(bus)
    api.putChild(b"tail", site.tails)
    api.putChild(b"messages", _MessagesPage(outlet, store, topics.downlink, clock, nowMs))
    boxes, disconnector = Boxes(store, known), Disconnector(store, disconnect, clock)
    site.boxes = BoxesPage(store, boxes, disconnector, Eraser(bus, store, topics, published, elsewhere), clock)
    api.putChild(b"boxes", site.boxes)
    api.putChild(b"directory", directory)
    if control is not None:
        api.putChild(b"drain", DrainPage(control))
        api.putChild(b"logs", LogsPage(control))
    directory.putChild(b"changes", _ChangesPage(outlet, topics.directory, clock))
    return site
