"""
C{/api/boxes}, and what is below it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple

from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from binaryserver.interfaces import ISessionStore
from binaryserver.model import BoxKey
from binaryserver.ops.boxes import Boxes, parseBox
from binaryserver.ops.disconnecting import Disconnector
from binaryserver.ops.erasing import Eraser
from binaryserver.ops.listing import Listing, ListQuery, page
from binaryserver.ops.outlet import Posted
from binaryserver.ops.pages import Folder, GetPage, Missing
from binaryserver.ops.problem import problem

NDJSON: Final = b"application/x-ndjson"
_MAX_LISTINGS: Final = 8
"""answered at a time"""

_Action = Callable[[BoxKey], Coroutine[Any, Any, dict[str, object]]]


class _Deed(NamedTuple):
    """
    What is done for a method.

    @ivar late: one sentence, with C{{asset}}, for one who cannot be told in time
    """

    action: _Action
    late: str


class BoxesPage(GetPage):
    """
    C{/api/boxes}: the list of boxes; below it, each by its asset.
    """

    def __init__(
        self, store: ISessionStore, boxes: Boxes, disconnector: Disconnector, eraser: Eraser, clock: Any
    ) -> None:
        """
        @param clock: the reactor
        """
        super().__init__()
        self._store = store
        self._boxes = boxes
        self._disconnector = disconnector
        self._eraser = eraser
        self._clock = clock
        self._open: set[Listing] = set()

    def getChild(self, path: bytes, request: HTTPRequest) -> Resource:
        """
        See L{Resource.getChild}.
        """
        if not path:
            return Missing()
        boxes, clock = self._boxes, self._clock
        show = _Deed(boxes.show, "box {asset} cannot be shown: there was no answer")
        erase = _Deed(self._eraser.erase, "box {asset} may or may not be erased; ask again: it was not done")
        explain = _Deed(boxes.explain, "box {asset} cannot be explained: there was no answer")
        disconnect = _Deed(
            self._disconnector.disconnect, "box {asset} may or may not be disconnected; ask again: it was not done"
        )
        box = _BoxPage(path, clock, {b"GET": show, b"DELETE": erase})
        box.putChild(b"explain", _BoxPage(path, clock, {b"GET": explain}))
        box.putChild(b"disconnect", _BoxPage(path, clock, {b"POST": disconnect}))
        return box

    def answer(self, request: Request) -> Any:
        """
        See L{GetPage.answer}.
        """
        try:
            query = ListQuery.parse(request.args or {})
        except ValueError as error:
            return problem(request, 400, str(error))
        if not _wantsLines(request):
            late = "there was no answer"
            Posted(request, self._clock, 200, late).run(page(query, self._store, self._clock))
            return NOT_DONE_YET
        if len(self._open) >= _MAX_LISTINGS:
            request.setHeader("retry-after", "30")
            return problem(request, 503, f"{_MAX_LISTINGS} lists are on their way already")
        request.setHeader("content-type", NDJSON)
        request.setHeader("cache-control", "no-store")
        if request.method == b"HEAD":
            return b""
        listing = Listing(request, query, self._store, self._clock)
        self._open.add(listing)
        listing.start().addBoth(lambda _: self._open.discard(listing))
        return NOT_DONE_YET

    def end(self) -> None:
        """
        End every list that is on its way.
        """
        for listing in list(self._open):
            listing.end()


def _wantsLines(request: Request) -> bool:
    accepted = b",".join(request.requestHeaders.getRawHeaders(b"accept", []))
    return any(one.partition(b";")[0].strip().lower() == NDJSON for one in accepted.split(b","))


class _BoxPage(Folder):
    """
    What can be done with one box under one path.
    """

    def __init__(self, asset: bytes, clock: Any, deeds: Mapping[bytes, _Deed]) -> None:
        """
        @param deeds: by method
        """
        super().__init__()
        self._asset = asset
        self._clock = clock
        self._deeds = deeds

    def render(self, request: Request) -> Any:
        """
        See L{Resource.render}.
        """
        deed = self._deeds.get(b"GET" if request.method == b"HEAD" else request.method)
        if deed is None:
            allowed = [*self._deeds, *([b"HEAD"] if b"GET" in self._deeds else [])]
            methods = b", ".join(sorted(allowed)).decode()
            request.setHeader("allow", methods)
            return problem(request, 405, f"only {methods}")
        try:
            box = parseBox(self._asset, request.args or {})
        except ValueError as error:
            return problem(request, 400, str(error))
        Posted(request, self._clock, 200, deed.late.format(asset=box.asset)).run(deed.action(box))
        return NOT_DONE_YET
