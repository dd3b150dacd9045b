"""
Redis's replies, as bytes bring them (RESP 2).
"""

from __future__ import annotations

from binaryserver.errors import StoreError

_LONGEST_LINE = 65_536
_LARGEST_BULK = 512 * 1024 * 1024
_DEEPEST = 8


class ErrorReply(Exception):
    """
    Redis refused a command.

    @ivar code: its first word, e.g. C{"NOSCRIPT"}
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]


class _Incomplete(Exception):
    """
    More bytes are to come.
    """


class ReplyParser:
    """
    Takes bytes, gives replies: bytes, numbers, lists of replies, L{None} and L{ErrorReply}s.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0
        # That many bytes there must be before it makes sense to look again.
        self._wanted = 0

    def feed(self, data: bytes) -> list[object]:
        """
        Take what came; give the replies that are whole now.

        @raise StoreError: this is not what Redis says
        """
        buffer = self._buffer
        buffer += data
        replies: list[object] = []
        start = 0
        while len(buffer) > start and len(buffer) >= self._wanted:
            self._position = start
            try:
                replies.append(self._reply(0))
            except _Incomplete:
                break
            start = self._position
            self._wanted = 0
        if start:
            del buffer[:start]
            self._wanted = max(0, self._wanted - start)
        return replies

    def _reply(self, depth: int) -> object:
        end = self._buffer.find(b"\r\n", self._position, self._position + _LONGEST_LINE)
        kind = bytes(self._buffer[self._position : self._position + 1])
        if kind not in (b"$", b"*", b":", b"+", b"-") or depth > _DEEPEST:
            raise StoreError(f"{kind!r} begins no reply of Redis")
        if end < 0:
            if len(self._buffer) - self._position > _LONGEST_LINE:
                raise StoreError("a line of a reply does not end")
            raise _Incomplete
        text = bytes(self._buffer[self._position + 1 : end])
        self._position = end + 2
        if kind == b"+":
            return text
        if kind == b"-":
            return ErrorReply(text.decode("utf-8", "replace"))
        try:
            number = int(text)
        except ValueError:
            raise StoreError("a number of a reply cannot be read") from None
        if kind == b":":
            return number
        if number == -1:
            return None
        if not 0 <= number <= _LARGEST_BULK:
            raise StoreError("a reply of an impossible size")
        return self._bulk(number) if kind == b"$" else self._list(number, depth)

    def _bulk(self, size: int) -> bytes:
        start, end = self._position, self._position + size
        if len(self._buffer) < end + 2:
            self._wanted = end + 2
            raise _Incomplete
        if self._buffer[end : end + 2] != b"\r\n":
            raise StoreError("a text of a reply is longer than it says")
        self._position = end + 2
        return bytes(self._buffer[start:end])

    def _list(self, count: int, depth: int) -> list[object]:
        items = []
        for _ in range(count):
            if self._position >= len(self._buffer):
                raise _Incomplete
            items.append(self._reply(depth + 1))
        return items
