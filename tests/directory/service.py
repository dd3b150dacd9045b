"""
A directory service as an operator may have one, over a TOML file in the form of C{file:}; docs/directory-api.yaml says
what it answers. It is also told, under C{/control}, to do what such services do on their bad days.

C{python -m tests.directory.service --port PORT --file PATH} runs it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from twisted.internet import ssl
from twisted.internet.task import LoopingCall
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

BASE = "directory/v1"
_MAX_PAGE = 1000

MODES = (
    "well",
    "500",
    "503",
    "429",
    "hang",
    "half",
    "slow",
    "garbage",
    "list",
    "oversize",
    "endless",
    "gzip",
    "redirect",
)
"""What the service can be told to do."""


class Service:
    """
    What the service is, and what it is told to do.

    @ivar mode: one of L{MODES}
    @ivar times: how many requests it does so for; afterwards it is well
    @ivar retryAfter: what it says with 429 and 503; empty: nothing
    @ivar delay: s, of a slow answer
    @ivar pageSize: entries that a page has at most
    @ivar token: that requests must bear; empty: none
    @ivar requests: the paths and queries that were asked for
    @ivar notModified: how many were answered by 304
    @ivar gone: how many requests ended before their answer did
    """

    def __init__(self, path: str, token: str, reactor: Any) -> None:
        self.path = Path(path)
        self.token = token
        self.reactor = reactor
        self.mode, self.times, self.retryAfter, self.delay, self.pageSize = "well", 0, "", 0.2, _MAX_PAGE
        self.requests: list[str] = []
        self.notModified = 0
        self.gone = 0

    def nextMode(self) -> str:
        """
        What to do with the request that has come.
        """
        mode = self.mode
        if self.times:
            self.times -= 1
            if not self.times:
                self.mode = "well"
        return mode

    def accounts(self) -> list[dict[str, Any]]:
        """
        What the file says now.
        """
        found: list[dict[str, Any]] = tomllib.loads(self.path.read_text("utf-8")).get("account", [])
        return found


class _Missing(Exception):
    """
    There is no such resource.
    """


class _Directory(Resource):
    """
    All below L{BASE}.
    """

    isLeaf = True

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def render_GET(self, request: Request) -> Any:
        """
        Answer, or misbehave.
        """
        service = self._service
        service.requests.append(request.uri.decode("ascii"))
        request.notifyFinish().addErrback(lambda _: setattr(service, "gone", service.gone + 1))
        match service.nextMode():
            case "500" | "503" | "429" as status:
                if service.retryAfter:
                    request.setHeader("retry-after", service.retryAfter)
                return _problem(request, int(status), "it is a bad day")
            case "hang":
                return NOT_DONE_YET
            case "half":
                request.setHeader("content-length", "1000")
                request.write(b'{"name": ')
                return NOT_DONE_YET
            case "slow":
                late = service.reactor.callLater(service.delay, self._answerLate, request)
                request.notifyFinish().addErrback(lambda _: late.cancel())
                return NOT_DONE_YET
            case "garbage":
                return b"<html>It works!</html>"
            case "list":
                return b"[]"
            case "oversize":
                return b'{"name": "' + b"x" * (1 << 20) + b'"}'
            case "endless":
                writing = LoopingCall(request.write, b" " * 65536)
                writing.start(0.001)
                request.notifyFinish().addErrback(lambda _: writing.stop())
                return NOT_DONE_YET
            case "gzip":
                request.setHeader("content-encoding", "gzip")
                return b"\x1f\x8b"
            case "redirect":
                request.setResponseCode(302)
                request.setHeader("location", f"/{BASE}/accounts/other")
                return b""
        return self._answer(request)

    def _answerLate(self, request: Request) -> None:
        request.write(self._answer(request))
        request.finish()

    def _answer(self, request: Request) -> bytes:
        if self._service.token and request.getHeader("authorization") != f"Bearer {self._service.token}":
            request.setHeader("www-authenticate", "Bearer")
            return _problem(request, 401, "a token is wanted")
        try:
            found = self._find([part.decode() for part in request.postpath or []], request.args or {})
        except _Missing:
            return _problem(request, 404, "there is none")
        except ValueError as error:
            return _problem(request, 400, str(error))
        body = json.dumps(found, ensure_ascii=False).encode()
        request.setHeader("content-type", "application/json")
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        request.setHeader("etag", tag)
        if request.getHeader("if-none-match") == tag:
            self._service.notModified += 1
            request.setResponseCode(304)
            return b""
        return body

    def _find(self, path: list[str], arguments: dict[bytes, list[bytes]]) -> dict[str, Any]:
        if len(path) < 2 or path[0] != "accounts":
            raise _Missing
        account = _named(self._service.accounts(), "name", path[1])
        match path[2:]:
            case []:
                return {key: value for key, value in account.items() if key not in ("box", "fields", "channels")}
            case ["fields" | "channels" as name]:
                if name not in account:
                    raise _Missing
                return self._page(account[name], name, arguments)
            case ["boxes", asset]:
                return _named(account.get("box", []), "asset", asset)
        raise _Missing

    def _page(self, entries: list[Any], name: str, arguments: dict[bytes, list[bytes]]) -> dict[str, Any]:
        size = min(int(arguments.get(b"page_size", [b"100"])[0]), self._service.pageSize)
        token = arguments.get(b"page_token", [b""])[0]
        first = int(token.removeprefix(b"from ")) if token else 0
        page: dict[str, Any] = {name: entries[first : first + size]}
        if first + size < len(entries):
            page["next_page_token"] = f"from {first + size}"
        return page


class _Control(Resource):
    """
    C{/control}: GET tells what was asked, PUT says what to do.
    """

    isLeaf = True

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def render_GET(self, request: Request) -> bytes:
        """
        What was asked.
        """
        service = self._service
        found = {"requests": service.requests, "not_modified": service.notModified, "gone": service.gone}
        return json.dumps(found).encode()

    def render_PUT(self, request: Request) -> bytes:
        """
        What to do.
        """
        assert request.content is not None
        for name, value in json.loads(request.content.read()).items():
            assert name != "mode" or value in MODES, value
            setattr(self._service, name, value)
        return b"{}"


def _named(entries: list[dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    for entry in entries:
        if entry[key] == name:
            return entry
    raise _Missing


def _problem(request: Request, status: int, detail: str) -> bytes:
    request.setResponseCode(status)
    request.setHeader("content-type", "application/problem+json")
    return json.dumps({"type": "about:blank", "status": status, "detail": detail}).encode()


def makeSite(service: Service) -> Site:
    """
    The service's site.
    """
    root, inner = Resource(), Resource()
    first, second = BASE.encode().split(b"/")
    root.putChild(first, inner)
    inner.putChild(second, _Directory(service))
    root.putChild(b"control", _Control(service))
    site = Site(root, reactor=service.reactor)
    site.displayTracebacks = False
    site.noisy = False
    return site


def main() -> None:
    """
    Run it until it is ended.
    """
    from twisted.internet import reactor as globalReactor
    from twisted.python import log

    parser = argparse.ArgumentParser(description="An example of a directory service.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", required=True, help="TOML, as file: takes it")
    parser.add_argument("--token-file", default="", help="the token that requests must bear")
    parser.add_argument("--cert", default="", help="PEM: speak TLS")
    parser.add_argument("--key", default="")
    options = parser.parse_args()
    reactor: Any = globalReactor
    log.startLogging(sys.stderr, setStdout=False)
    token = Path(options.token_file).read_text().strip() if options.token_file else ""
    site = makeSite(Service(options.file, token, reactor))
    if options.cert:
        pem = Path(options.cert).read_bytes() + Path(options.key).read_bytes()
        reactor.listenSSL(options.port, site, ssl.PrivateCertificate.loadPEM(pem).options(), interface="127.0.0.1")
    else:
        reactor.listenTCP(options.port, site, interface="127.0.0.1")
    print("ready", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
