"""
Errors as the HTTP side tells them: problem details (RFC 9457).
"""

from __future__ import annotations

import json

from twisted.web.http import RESPONSES
from twisted.web.server import Request


def problem(request: Request, status: int, detail: str) -> bytes:
    """
    An error's body; sets the status and the headers that go with it.

    @param status: an HTTP status code that has a name
    @param detail: one sentence for a person, of what went wrong this time
    """
    request.setResponseCode(status)
    request.setHeader("content-type", "application/problem+json")
    title = RESPONSES[status].decode()
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode() + b"\n"


def sendProblem(request: Request, status: int, detail: str) -> None:
    """
    End a request that was not answered yet, and is not gone, with an error.
    """
    body = problem(request, status, detail)
    request.setHeader("content-length", str(len(body)))
    request.write(body)
    request.finish()
