"""
The Shovel's HTTP side: health and counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from binaryserver.ops.problem import problem
from binaryserver.shovel.counts import Counts

_REQUEST_TIMEOUT = 60
"""s"""


class _Page(Resource):
    """
    A JSON object, of a status.
    """

    isLeaf = True

    def __init__(self, answer: Callable[[], tuple[int, dict[str, Any]]]) -> None:
        super().__init__()
        self._answer = answer

    def render(self, request: Request) -> bytes:
        """
        See L{Resource.render}.
        """
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("allow", "GET, HEAD")
            return problem(request, 405, "only GET and HEAD")
        if request.postpath:
            return problem(request, 404, "there is nothing here")
        status, values = self._answer()
        request.setResponseCode(status)
        request.setHeader("content-type", "application/json")
        request.setHeader("cache-control", "no-store")
        return json.dumps(values).encode() + b"\n"


class _Root(Resource):
    """
    Only what it was given is here.
    """

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See L{Resource.getChild}.
        """
        return self

    def render(self, request: Request) -> bytes:
        """
        See L{Resource.render}.
        """
        return problem(request, 404, "there is nothing here")


class _Site(Site):
    """
    Probes do not fill the log.
    """

    noisy = False

    def log(self, request: Any) -> None:
        """
        Nothing.
        """


def makeSite(counts: Counts, clock: Any) -> Site:
    """
    C{/livez}: the reactor turns; C{/readyz}: nothing keeps a list from being copied; C{/counts}.

    @param clock: the reactor
    """

    def ready() -> tuple[int, dict[str, Any]]:
        troubles = {kind: reason for kind, reason in counts.troubles.items() if reason}
        return (503 if troubles else 200), {"status": "troubled" if troubles else "ok", "troubles": troubles}

    root = _Root()
    root.putChild(b"livez", _Page(lambda: (200, {"status": "ok"})))
    root.putChild(b"readyz", _Page(ready))
    root.putChild(b"counts", _Page(lambda: (200, counts.asDict())))
    return _Site(root, timeout=_REQUEST_TIMEOUT, reactor=clock)
