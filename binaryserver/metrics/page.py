"""
C{/metrics}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Metric
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from binaryserver.metrics.families import CONTENT_TYPE, asText
from binaryserver.ops.access import Access
from binaryserver.ops.pages import GetPage
from binaryserver.ops.problem import sendProblem


class MetricsPage(GetPage):
    """
    All families, in Prometheus's text format, for who may ask. However many ask at a time, they have one and the same
    answer.
    """

    log = Logger()

    def __init__(self, gather: Callable[[], Deferred[Iterable[Metric]]], access: Access) -> None:
        super().__init__()
        self._gather = gather
        self._access = access
        self._waiting: list[Request] = []

    def render(self, request: Request) -> Any:
        """
        See L{GetPage.render}.
        """
        denied = self._access.judge(request)
        return super().render(request) if denied is None else self._access.deny(request, denied)

    def answer(self, request: Request) -> Any:
        """
        See L{GetPage.answer}.
        """
        self._waiting.append(request)
        request.notifyFinish().addErrback(lambda _: self._leave(request))
        if len(self._waiting) == 1:
            self._gather().addCallback(asText).addCallbacks(self._send, self._fail)
        return NOT_DONE_YET

    def _leave(self, request: Request) -> None:
        if request in self._waiting:
            self._waiting.remove(request)

    def _send(self, text: bytes) -> None:
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request.setHeader("content-type", CONTENT_TYPE)
            request.setHeader("cache-control", "no-store")
            request.setHeader("content-length", str(len(text)))
            if request.method != b"HEAD":
                request.write(text)
            request.finish()

    def _fail(self, failure: Failure) -> None:
        self.log.failure("metrics could not be gathered", failure)
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            sendProblem(request, 500, "this is the gateway's fault; its log says more")
