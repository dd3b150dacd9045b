"""
How C{binaryserver-ctl} asks a gateway over its HTTP side, and how it tells what went wrong.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead, InvalidURL
from socket import socket
from urllib.parse import urlencode, urlsplit

from binaryserver.errors import BinaryServerError

_MAX_READ = 65_536
"""bytes"""
_MAX_ANSWER = 65_536
"""bytes read of an answer that is one object"""


class AskFailed(BinaryServerError):
    """
    What was asked for did not come. C{str} of it is a sentence for a person.

    @ivar status: the HTTP status code; 0: there was no whole answer
    @ivar wasSent: the gateway may have got the request
    """

    def __init__(self, sentence: str, status: int = 0, wasSent: bool = True) -> None:
        super().__init__(sentence)
        self.status = status
        self.wasSent = wasSent


class Answer:
    """
    A gateway's answer to one request.
    """

    def __init__(self, http: str, connection: socket, response: HTTPResponse) -> None:
        self._http = http
        self._socket = connection
        self._response = response

    def lines(self, until: float | None) -> Iterator[bytes]:
        """
        The lines of the body.

        @param until: s of C{time.monotonic}; L{None}: for ever
        @raise AskFailed: the answer ended before its end
        @raise TimeoutError: it did not end until then
        """
        rest = b""
        try:
            while data := self._read(until):
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
            if rest:
                raise IncompleteRead(rest)
        except HTTPException as error:
            raise AskFailed(_cut(self._http, error)) from error
        except TimeoutError:
            raise
        except OSError as error:
            raise AskFailed(_system(self._http, error)) from error

    def _read(self, until: float | None) -> bytes:
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        # Unlike readline, this tells when the connection ends before the body does.
        return self._response.read1(_MAX_READ)

    def json(self) -> dict[str, object]:
        """
        The body: one object.

        @raise AskFailed: it is none
        """
        try:
            told: object = json.loads(self._response.read(_MAX_ANSWER))
        except HTTPException as error:
            raise AskFailed(_cut(self._http, error)) from error
        except OSError as error:
            raise AskFailed(_system(self._http, error)) from error
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise AskFailed(f"{self._http}: {self._response.status}: is this a gateway's HTTP side?")
        return told


def ask(
    http: str,
    path: str,
    *,
    arguments: list[tuple[str, object]] | None = None,
    body: object = None,
    expected: int = 200,
    timeout: float = 20.0,
) -> Answer:
    """
    Ask a gateway; no proxy stands in between, whatever the environment says.

    @param http: the URL of the HTTP side
    @param path: e.g. C{"/api/tail"}
    @param arguments: of the URL
    @param body: to be POSTed as JSON; L{None}: this is a GET
    @param expected: the status of an answer that is none of an error
    @param timeout: s for the connection, and for the answer's head
    @raise AskFailed: there is no such answer
    """
    wasSent = False
    try:
        connection = _connection(http, timeout)
        connection.connect()
        # Once it has answered, the connection is the response's alone, and names no socket any more.
        link: socket = connection.sock
        target = urlsplit(http).path.rstrip("/") + path
        if arguments:
            target += f"?{urlencode(arguments)}"
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        wasSent = True
        connection.request("GET" if body is None else "POST", target, content, headers)
        response = connection.getresponse()
    except InvalidURL as error:
        raise AskFailed(f"{http}: {error}", wasSent=False) from error
    except HTTPException as error:
        raise AskFailed(_cut(http, error)) from error
    except OSError as error:
        raise AskFailed(_system(http, error), wasSent=wasSent) from error
    except ValueError as error:
        raise AskFailed(f"--http: {http!r} {error}", wasSent=False) from error
    if response.status != expected:
        raise AskFailed(f"{http}: {_detail(response)}", response.status)
    return Answer(http, link, response)


def _connection(http: str, timeout: float) -> HTTPConnection:
    """
    @raise ValueError: the URL is none; C{str} of it goes on from the URL
    @raise InvalidURL: it is none that can be asked
    """
    url = urlsplit(http)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("is no http:// URL")
    try:
        port = url.port
    except ValueError:
        raise InvalidURL("this port is none") from None
    return (HTTPSConnection if url.scheme == "https" else HTTPConnection)(url.hostname, port, timeout=timeout)


def _cut(http: str, error: HTTPException) -> str:
    return f"{http}: the gateway ended the answer before its end ({type(error).__name__})"


def _system(http: str, error: OSError) -> str:
    return f"{http}: {error.strerror or error}"


def _detail(response: HTTPResponse) -> str:
    """
    What an error says of itself, if it is a gateway's.
    """
    try:
        problem = json.loads(response.read(_MAX_ANSWER))
        return f"{response.status} {problem['title']}: {problem['detail']}"
    except (HTTPException, OSError, ValueError, KeyError, TypeError):
        return f"{response.status} {response.reason}: is this a gateway's HTTP side?"


def tell(text: str) -> bool:
    """
    Print a line at once.

    @return: whether somebody reads us still; C{head}, say, does so only for a while
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def fail(sentence: object, status: int = 1) -> int:
    """
    Tell what went wrong.

    @return: the exit status
    """
    print(f"binaryserver-ctl: {sentence}", file=sys.stderr)
    return status
