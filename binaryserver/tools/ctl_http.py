"""
How C{binaryserver-ctl} asks a gateway over its HTTP side, and how it tells what went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead, InvalidURL
from ipaddress import ip_address
from socket import socket
from ssl import SSLCertVerificationError, SSLContext, SSLError, SSLSocket, TLSVersion, create_default_context
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from cryptography.x509 import Certificate, load_der_x509_certificate
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

from binaryserver.errors import BinaryServerError
from binaryserver.ops.tokens import readTokens

DEFAULT_HTTP = "http://127.0.0.1:8080"
TOKEN_FILE_VARIABLE = "BINARYSERVER_CTL_TOKEN_FILE"

_MAX_READ = 65_536
"""bytes"""
_MAX_ANSWER = 262_144
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


class HttpSide(NamedTuple):
    """
    Where a gateway's HTTP side is, and what we show it.

    @ivar url: C{http://} or C{https://}
    @ivar tokenFile: whose first bearer token we have; empty: none
    @ivar ca: a PEM file of the authorities that its certificate may be of; empty: the system's
    @ivar cert: a PEM file with our own certificate; empty: none
    @ivar key: likewise with its private key
    """

    url: str
    tokenFile: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""

    @classmethod
    def of(cls, options: argparse.Namespace) -> HttpSide:
        """
        That of a command line with L{addHttpOptions}.
        """
        tokenFile = options.token_file or os.environ.get(TOKEN_FILE_VARIABLE, "")
        return cls(options.http, tokenFile, options.ca, options.cert, options.key)

    def headers(self) -> dict[str, str]:
        """
        Those of every request.

        @raise AskFailed: the token cannot be read, or must not be sent there
        """
        if not self.tokenFile:
            return {}
        try:
            tokens = readTokens(self.tokenFile)
        except OSError as error:
            raise AskFailed(f"--token-file: {self.tokenFile}: {error.strerror}", wasSent=False) from error
        except ValueError as error:
            raise AskFailed(f"--token-file: {self.tokenFile}: {error}", wasSent=False) from error
        if tokens.complaint:
            raise AskFailed(f"--token-file: {self.tokenFile}: {tokens.complaint}", wasSent=False)
        url = urlsplit(self.url)
        if url.scheme == "http" and not _isLoopback(url.hostname or ""):
            raise AskFailed(f"{self.url}: a token is sent over https:// only, or to loopback", wasSent=False)
        return {"Authorization": f"Bearer {tokens.good[0].decode()}"}


def _isLoopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def addHttpOptions(parser: argparse.ArgumentParser) -> None:
    """
    What every command needs that asks a gateway.
    """
    group = parser.add_argument_group("the gateway")
    group.add_argument("--http", default=DEFAULT_HTTP, metavar="URL", help="its HTTP side [%(default)s]")
    group.add_argument(
        "--token-file",
        default="",
        metavar="PATH",
        help=f"holds the bearer token that it wants [{TOKEN_FILE_VARIABLE} in the environment]",
    )
    group.add_argument(
        "--ca", default="", metavar="PATH", help="PEM: the authorities that its certificate may be of [the system's]"
    )
    group.add_argument("--cert", default="", metavar="PATH", help="PEM: our own certificate; needs --key")
    group.add_argument("--key", default="", metavar="PATH", help="PEM: its private key; needs --cert")


def ask(
    side: HttpSide,
    path: str,
    *,
    method: str = "",
    arguments: list[tuple[str, object]] | None = None,
    body: object = None,
    expected: int = 200,
    timeout: float = 20.0,
    accept: str = "",
) -> Answer:
    """
    Ask a gateway; no proxy stands in between, whatever the environment says.

    @param path: e.g. C{"/api/tail"}
    @param method: of HTTP; empty: POST with a body, GET without
    @param arguments: of the URL
    @param body: to be sent as JSON; L{None}: there is none
    @param expected: the status of an answer that is none of an error
    @param timeout: s for the connection, and for the answer's head
    @param accept: the media type of the answer; empty: the usual one
    @raise AskFailed: there is no such answer
    """
    http, wasSent = side.url, False
    try:
        connection = _connection(side, timeout)
        headers = side.headers()
        connection.connect()
        # Once it has answered, the connection is the response's alone, and names no socket any more.
        link: socket = connection.sock
        target = urlsplit(http).path.rstrip("/") + path
        if arguments:
            target += f"?{urlencode(arguments)}"
        content = None if body is None else json.dumps(body)
        if accept:
            headers["Accept"] = accept
        if body is not None:
            headers["Content-Type"] = "application/json"
        wasSent = True
        connection.request(method or ("GET" if body is None else "POST"), target, content, headers)
        response = connection.getresponse()
    except InvalidURL as error:
        raise AskFailed(f"{http}: {error}", wasSent=False) from error
    except HTTPException as error:
        raise AskFailed(_cut(http, error)) from error
    except SSLCertVerificationError as error:
        raise AskFailed(f"{http}: its certificate cannot be trusted: {error.verify_message}", wasSent=False) from error
    except OSError as error:
        raise AskFailed(_system(http, error), wasSent=wasSent) from error
    except ValueError as error:
        raise AskFailed(f"--http: {http!r} {error}", wasSent=False) from error
    if response.status != expected:
        raise AskFailed(f"{http}: {_detail(response)}{_hint(response.status, side)}", response.status)
    return Answer(http, link, response)


def _hint(status: int, side: HttpSide) -> str:
    return " (--token-file)" if status == 401 and not side.tokenFile else ""


class _VerifiedConnection(HTTPSConnection):
    """
    One to a gateway whose certificate is for the host that was asked.
    """

    def connect(self) -> None:
        """
        See L{HTTPSConnection.connect}.

        @raise AskFailed: the certificate is for somebody else; nothing was sent
        """
        super().connect()
        link: SSLSocket = self.sock
        shown = link.getpeercert(binary_form=True)
        assert shown is not None, "a certificate was required"
        certificate = load_der_x509_certificate(shown)
        try:
            ip_address(self.host)
        except ValueError:
            verify: Callable[[Certificate, str], None] = verify_certificate_hostname
        else:
            verify = verify_certificate_ip_address
        try:
            verify(certificate, self.host)
        except (VerificationError, CertificateError) as error:
            self.close()
            raise AskFailed(
                f"https://{self.host}:{self.port}: its certificate is not for {self.host}", wasSent=False
            ) from error


def _connection(side: HttpSide, timeout: float) -> HTTPConnection:
    """
    @raise ValueError: the URL is none; C{str} of it goes on from the URL
    @raise InvalidURL: it is none that can be asked
    @raise AskFailed: a file cannot be used
    """
    url = urlsplit(side.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("is no http:// URL")
    try:
        port = url.port
    except ValueError:
        raise InvalidURL("this port is none") from None
    if url.scheme == "http":
        for option, value in (("--ca", side.ca), ("--cert", side.cert), ("--key", side.key)):
            if value:
                raise AskFailed(f"{option}: is of no use with {side.url}: use https://", wasSent=False)
        return HTTPConnection(url.hostname, port, timeout=timeout)
    return _VerifiedConnection(url.hostname, port, timeout=timeout, context=_context(side))


def _context(side: HttpSide) -> SSLContext:
    """
    @raise AskFailed: a file cannot be used
    """
    if bool(side.cert) != bool(side.key):
        given, missing = ("--cert", "--key") if side.cert else ("--key", "--cert")
        raise AskFailed(f"{missing}: is needed with {given}", wasSent=False)
    try:
        context = create_default_context(cafile=side.ca or None)
    except OSError as error:
        raise AskFailed(f"--ca: {side.ca}: {_fileTrouble(error)}", wasSent=False) from error
    # Whom the certificate is for is looked at once the handshake is done, and before anything is sent.
    context.check_hostname = False
    context.minimum_version = TLSVersion.TLSv1_2
    if side.cert:
        try:
            # An encrypted key would have somebody asked for its passphrase.
            context.load_cert_chain(side.cert, side.key, password=b"")
        except OSError as error:
            raise AskFailed(f"--cert: {side.cert} with {side.key}: {_fileTrouble(error)}", wasSent=False) from error
    return context


def _fileTrouble(error: OSError) -> str:
    return "is not PEM, or does not fit" if isinstance(error, SSLError) else str(error.strerror)


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
