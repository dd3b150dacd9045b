"""
The bodies of requests, and how much of them is kept.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

from twisted.web.http import Request

JSON: Final = b"application/json"
MAX_BODY: Final = 512 * 1024
"""bytes"""
MAX_BODIES: Final = 16 * 1024 * 1024
"""bytes of all bodies that have come in part"""


def mediaType(request: Request) -> bytes:
    """
    What the C{content-type} of a request says, without parameters; empty if there is none, or more than one.
    """
    values = request.requestHeaders.getRawHeaders(b"content-type", [])
    return values[0].partition(b";")[0].strip().lower() if len(values) == 1 else b""


class NoBody(BytesIO):
    """
    Of a request whose body means nothing.
    """

    def write(self, data: Any) -> int:
        """
        Take it, keep nothing.
        """
        return len(data)


class Bodies:
    """
    All that are kept at a time.

    @ivar size: bytes
    """

    def __init__(self) -> None:
        self.size = 0

    def body(self) -> Body:
        """
        One more.
        """
        return Body(self)


class Body(BytesIO):
    """
    One that is kept, as long as it and all of them are not too large, until it is closed.

    @ivar status: an HTTP status code, why it was not kept; 0: it was
    """

    def __init__(self, bodies: Bodies) -> None:
        super().__init__()
        self.status = 0
        self._bodies = bodies
        self._kept = 0

    def write(self, data: Any) -> int:
        """
        Take it.
        """
        size = len(data)
        if not self.status and self._kept + size > MAX_BODY:
            self.status = 413
        elif not self.status and self._bodies.size + size > MAX_BODIES:
            self.status = 503
        if self.status:
            self._forget()
            return size
        self._kept += size
        self._bodies.size += size
        return super().write(data)

    def _forget(self) -> None:
        self._bodies.size -= self._kept
        self._kept = 0
        self.seek(0)
        self.truncate()

    def close(self) -> None:
        """
        See L{BytesIO.close}.
        """
        if not self.closed:
            self._forget()
        super().close()
