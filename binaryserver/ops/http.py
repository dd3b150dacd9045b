"""
The HTTP side: health, and the bus read back.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from binaryserver.bus.topics import Topics
from binaryserver.interfaces import IBus
from binaryserver.ops.tail import Tail, TailQuery

_MAX_QUERY = 2048
_IDLE_TIMEOUT = 60


def problem(request: Request, status: int, title: str, detail: str = "") -> bytes:
    """
    An error's body (RFC 9457); sets the status and the content type.
    """
    request.setResponseCode(status)
    request.setHeader("content-type", "application/problem+json")
    body = {"type": "about:blank", "title": title, "status": status}
    if detail:
        body["detail"] = detail
    return json.dumps(body).encode() + b"\n"


class _Page(Resource):
    """
    One that answers GET and nothing else.
    """

    isLeaf = True

    def render(self, request: Request) -> Any:
        """
        See L{Resource.render}.
        """
        if request.postpath and any(request.postpath):
            return problem(request, 404, "Not Found", "there is nothing here")
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("allow", "GET, HEAD")
            return problem(request, 405, "Method Not Allowed", "only GET and HEAD")
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
        return b'{"status": "ok"}\n'


class _TailPage(_Page):
    """
    C{/api/tail}: events, one JSON object a line.
    """

    def __init__(self, bus: IBus, topics: Topics, clock: Any) -> None:
        Resource.__init__(self)
        self._bus = bus
        self._topics = topics
        self._clock = clock

    def answer(self, request: Request) -> Any:
        """
        See L{_Page.answer}.
        """
        if len(request.uri) > _MAX_QUERY:
            return problem(request, 414, "URI Too Long", f"more than {_MAX_QUERY} bytes")
        try:
            query = TailQuery.parse(request.args, self._topics)
        except ValueError as error:
            return problem(request, 400, "Bad Request", str(error))
        request.setHeader("content-type", "application/x-ndjson")
        request.setHeader("cache-control", "no-store")
        if request.method == b"HEAD":
            return b""
        Tail(request, self._bus, self._topics, query, self._clock).start()
        return NOT_DONE_YET


class _Root(Resource):
    """
    Everything else is not there.
    """

    isLeaf = False

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See L{Resource.getChild}.
        """
        return _NotFound()


class _NotFound(Resource):
    """
    404.
    """

    isLeaf = True

    def render(self, request: Request) -> bytes:
        """
        See L{Resource.render}.
        """
        return problem(request, 404, "Not Found", "there is nothing here")


def makeSite(bus: IBus, topics: Topics, clock: Any) -> Site:
    """
    The site of C{--http}.

    @param clock: the reactor
    """
    root, api = _Root(), _Root()
    root.putChild(b"livez", _Livez())
    root.putChild(b"api", api)
    api.putChild(b"tail", _TailPage(bus, topics, clock))
    api.render = _NotFound().render  # type: ignore[method-assign]
    site = Site(root, timeout=_IDLE_TIMEOUT, reactor=clock)
    site.noisy = False
    # The default observer writes every request's address and path, and so assets, into the log.
    site.log = lambda request: None  # type: ignore[method-assign]
    return site
