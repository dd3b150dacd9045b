"""
What operators do to a running process: have it drain, and change what it logs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.logger import Logger
from twisted.web.server import Request

from binaryserver.ops.fields import Fields
from binaryserver.ops.logs import Logs, parseLevel
from binaryserver.ops.outlet import Refusal
from binaryserver.ops.pages import PostPage
from binaryserver.ops.problem import problem


class Workers(Protocol):
    """
    The other processes of this host, if there are any.
    """

    def drainWorker(self, instance: str) -> bool:
        """
        Have one drain; it is started again then.

        @return: there is one of that name
        """

    def setLevels(self, levels: Mapping[str, str]) -> None:
        """
        Have all of them log by these levels, and those that are started later.
        """


class Control:
    """
    Of one process.
    """

    log = Logger()

    def __init__(
        self, instance: str, logs: Logs | None, stop: Callable[[], None], workers: Workers | None = None
    ) -> None:
        """
        @param instance: this one's id
        @param logs: L{None}: what is logged is not ours to say
        @param stop: has the process drain, and end
        """
        self._instance = instance
        self._logs = logs
        self._stop = stop
        self._workers = workers

    def drain(self, instance: str) -> dict[str, Any]:
        """
        Have an instance drain, as SIGTERM does.

        @param instance: its id; empty: this process, with its workers
        @return: what whoever asked is told
        @raise Refusal: there is no such instance here
        """
        if instance in ("", self._instance):
            self.log.info("this instance is asked to drain")
            self._stop()
            return {"instance": self._instance, "draining": True}
        if self._workers is not None and self._workers.drainWorker(instance):
            return {"instance": instance, "draining": True}
        raise Refusal(404, f"instance {instance} is not here: this is {self._instance}; ask its own HTTP side")

    def levels(self) -> dict[str, Any]:
        """
        What is logged.

        @raise Refusal: it is not ours to say
        """
        levels = dict(self._ours().levels)
        return {"level": levels.pop(""), "namespaces": levels}

    def setLevel(self, namespace: str, level: str) -> dict[str, Any]:
        """
        Change what is logged, until the next change, the next SIGHUP, or the end of the process.

        @param namespace: of what; empty: all that has no level of its own
        @param level: a level; C{"default"}: with a namespace, that it has none of its own
        @return: what is logged from now on
        @raise ValueError: there is no such level
        @raise Refusal: it is not ours to say
        """
        logs = self._ours()
        levels = dict(logs.levels)
        if level == "default" and namespace:
            levels.pop(namespace, None)
        else:
            levels |= [parseLevel(f"{namespace}={level}" if namespace else level)]
        self.setLevels(levels)
        return self.levels()

    def setLevels(self, levels: Mapping[str, str]) -> None:
        """
        Log by these levels, here and in the workers.
        """
        if self._logs is not None:
            self._logs.setLevels(levels)
            if self._workers is not None:
                self._workers.setLevels(self._logs.levels)

    def _ours(self) -> Logs:
        if self._logs is None:
            raise Refusal(409, "what is logged is said by twistd's --logger or --syslog")
        return self._logs


class DrainPage(PostPage):
    """
    C{/api/drain}: has an instance drain.
    """

    def __init__(self, control: Control) -> None:
        super().__init__()
        self._control = control

    def take(self, request: Request, body: bytes) -> bytes:
        """
        See L{PostPage.take}.
        """
        fields = Fields(body)
        instance = fields.text("instance")
        fields.checkAllRead()
        return _told(request, 202, lambda: self._control.drain(instance))


class LogsPage(PostPage):
    """
    C{/api/logs}: GET tells what is logged, PUT changes it.
    """

    method = b"PUT"
    allowed = "GET, HEAD, PUT"

    def __init__(self, control: Control) -> None:
        super().__init__()
        self._control = control

    def render(self, request: Request) -> Any:
        """
        See L{PostPage.render}.
        """
        if request.method in (b"GET", b"HEAD"):
            return _told(request, 200, self._control.levels)
        return super().render(request)

    def take(self, request: Request, body: bytes) -> bytes:
        """
        See L{PostPage.take}.
        """
        fields = Fields(body)
        namespace, level = fields.text("namespace"), fields.text("level")
        fields.checkAllRead()
        return _told(request, 200, lambda: self._control.setLevel(namespace, level))


def _told(request: Request, status: int, doing: Callable[[], dict[str, Any]]) -> bytes:
    """
    Do something, and answer with what it gives.

    @param status: an HTTP status code, if it is not refused
    """
    try:
        answer = doing()
    except Refusal as refusal:
        return problem(request, refusal.status, str(refusal))
    request.setResponseCode(status)
    request.setHeader("content-type", "application/json")
    request.setHeader("cache-control", "no-store")
    return json.dumps(answer).encode() + b"\n"
