"""
One connection to Redis. To be imported when it is needed: txredisapi imports the reactor when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import txredisapi
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from binaryserver.errors import StoreError
from binaryserver.session.redisreplies import ErrorReply, ReplyParser


class RedisProtocol(txredisapi.BaseRedisProtocol):  # type: ignore[misc]
    """
    txredisapi's, which writes commands and matches replies to them, with a parser that reads all replies of one read in
    one go: its own takes a turn of the reactor for each bulk of them, and takes what is no reply for nothing.

    Who makes one says who he is, and what is to happen when it ends: txredisapi's own greeting reports neither.

    @ivar ended: why it is of no more use; L{None}: it is not known to be
    """

    def __init__(self, onMessage: Callable[[bytes], None] | None, onEnd: Callable[[Any], None]) -> None:
        """
        @param onMessage: called with each message that was published to a channel it subscribes to; L{None}: it
            subscribes to none
        @param onEnd: called once, with this, when it is of no more use; all that waits for a reply fails right after
        """
        super().__init__(charset=None, convertNumbers=False)
        self._parser = ReplyParser()
        self._onMessage = onMessage
        self._onEnd = onEnd
        self.ended: Failure | None = None

    def connectionMade(self) -> None:
        """
        Nothing is said yet.
        """

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """
        Give out the replies.
        """
        if self.ended is not None:
            return
        try:
            replies = self._parser.feed(data)
        except StoreError:
            self.abandon(Failure())
            return
        for reply in replies:
            if self._onMessage is not None and isinstance(reply, list) and reply[:1] == [b"message"]:
                self._onMessage(reply[2])
            else:
                self.replyReceived(reply)

    @staticmethod
    def handle_reply(r: Any) -> Any:
        """
        Raise what Redis refused.
        """
        if isinstance(r, (ErrorReply, txredisapi.RedisError)):
            raise r
        return r

    def abandon(self, reason: Failure) -> None:
        """
        Fail all that waits for a reply, and drop the connection: a reply that comes later would be taken for another's.
        """
        if self.ended is None:
            self._end(reason)
            self.transport.abortConnection()

    def connectionLost(self, why: Failure = connectionDone) -> None:
        """
        The connection is gone.
        """
        if self.ended is None:
            self._end(why)

    def _end(self, reason: Failure) -> None:
        self.ended = reason
        self.connected = 0
        # First, so that whoever hears that a call has failed does not call by this one again.
        self._onEnd(self)
        while self.replyQueue.waiting:
            self.replyReceived(txredisapi.ConnectionError("the connection is lost"))
