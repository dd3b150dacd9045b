"""
What pages of the HTTP side have in common.
"""

from __future__ import annotations

from typing import Any

from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import Request

from binaryserver.ops.body import MAX_BODY, Body
from binaryserver.ops.problem import problem


class Missing(Resource):
    """
    Nothing is here, nor below.
    """

    def getChild(self, path: bytes, request: HTTPRequest) -> Resource:
        """
        See L{Resource.getChild}.
        """
        return self

    def render(self, request: Request) -> bytes:
        """
        See L{Resource.render}.
        """
        return problem(request, 404, "there is nothing here")


class Folder(Missing):
    """
    Only what it was given is here.
    """

    def getChild(self, path: bytes, request: HTTPRequest) -> Resource:
        """
        See L{Resource.getChild}.
        """
        return Missing()


class GetPage(Folder):
    """
    One that answers GET and nothing else.
    """

    def render(self, request: Request) -> Any:
        """
        See L{Resource.render}.
        """
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("allow", "GET, HEAD")
            return problem(request, 405, "only GET and HEAD")
        return self.answer(request)

    def answer(self, request: Request) -> Any:
        """
        Answer a GET.
        """
        raise NotImplementedError


class PostPage(Folder):
    """
    One that answers POST and nothing else, and takes JSON.

    @cvar method: what it answers instead
    @cvar allowed: all that it answers
    """

    method = b"POST"
    allowed = "POST"

    def render(self, request: Request) -> Any:
        """
        See L{Resource.render}.
        """
        if request.method != self.method:
            request.setHeader("allow", self.allowed)
            return problem(request, 405, f"only {self.allowed}")
        body = request.content
        if not isinstance(body, Body):
            return problem(request, 415, "the body is to be application/json")
        if body.status == 413:
            return problem(request, 413, f"the body has more than {MAX_BODY} bytes")
        if body.status:
            request.setHeader("retry-after", "5")
            return problem(request, body.status, "too many bodies are on their way already")
        try:
            answer = self.take(request, body.getvalue())
        except ValueError as error:
            return problem(request, 400, str(error))
        body.close()
        return answer

    def take(self, request: Request, body: bytes) -> Any:
        """
        Answer a POST.

        @raise ValueError: the body cannot be understood
        """
        raise NotImplementedError
