"""
Secrets of boxes against their hashes: slow by design, so never on the reactor's thread, and never more at once than the
process can bear.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict, deque
from collections.abc import Callable

from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from argon2.low_level import Type, verify_secret
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.endpoints.addressrate import hostKey
from binaryserver.errors import LocalError

_MAX_REMEMBERED = 100_000

# Of a random secret that nobody has, with what binaryserver-ctl hash-secret does: who names a box that does not exist
# waits as long as who gives a wrong secret.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$rVcvgQ9F5r2jSfkzn3kPfg$3Q5J4oN4KqVhOZ0vVb2wBzvXJYb6wq3f7Dq0yJw3JxA"


class CheckerBusy(LocalError):
    """
    As many secrets wait to be checked as may.
    """


class _Check:
    """
    One that waits for a thread.
    """

    __slots__ = ("digest", "done", "secret", "secretHash")

    def __init__(self, secretHash: str, secret: bytes, digest: bytes) -> None:
        self.secretHash = secretHash
        self.secret = secret
        self.digest = digest
        self.done: Deferred[bool] = Deferred()


class PasswordChecker:
    """
    Of one process. A secret that was right is remembered for as long as the process runs, by a digest that is of no use
    elsewhere: boxes come back often, and in their thousands at a time.

    Addresses take turns: whoever floods with wrong secrets waits behind himself, and when there is no room for more it
    is he who has none.

    @ivar waiting: checks under way, those that wait for a thread included
    """

    log = Logger()

    def __init__(self, inThread: Callable[..., Deferred[bool]], most: int, threads: int = 2) -> None:
        """
        @param inThread: calls a function in one of a few threads
        @param most: checks that may be under way, those that wait for a thread included
        @param threads: how many these are
        """
        self._inThread = inThread
        self._most = most
        self._threads = threads
        self._key = os.urandom(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        # By their addresses, in the order of their turns.
        self._queues: OrderedDict[bytes, deque[_Check]] = OrderedDict()
        self._underWay = 0
        self._isGoing = False
        self.waiting = 0

    def check(self, secretHash: str, secret: bytes, peer: str = "") -> Deferred[bool]:
        """
        Whether a secret is the one that was hashed.

        @param secretHash: argon2, in PHC form; empty: nobody's, which takes its time and is never right
        @param peer: the IP address of who gave it; all that have none count as one
        @return: fails with L{CheckerBusy}, also later
        """
        digest = hmac.digest(self._key, secretHash.encode() + b"\0" + hashlib.sha256(secret).digest(), "sha256")
        if self._isRemembered(digest):
            return succeed(True)
        address = hostKey(peer)
        if self.waiting >= self._most and not self._makeRoom(address):
            return fail(self._busy())
        check = _Check(secretHash, secret, digest)
        self._queues.setdefault(address, deque()).append(check)
        self.waiting += 1
        self._goOn()
        return check.done

    def _isRemembered(self, digest: bytes) -> bool:
        if digest not in self._right:
            return False
        self._right.move_to_end(digest)
        return True

    def _busy(self) -> CheckerBusy:
        return CheckerBusy(f"{self._most} secrets wait to be checked already")

    def _makeRoom(self, address: bytes) -> bool:
        """
        Refuse the latest of whoever has the most, unless that would be the newcomer.

        @return: whether there is room now
        """
        if not self._queues:
            return False
        longest = max(self._queues, key=lambda one: len(self._queues[one]))
        if len(self._queues[longest]) <= len(self._queues.get(address, ())) + 1:
            return False
        refused = self._queues[longest].pop()
        self.waiting -= 1
        refused.done.errback(self._busy())
        return True

    def _goOn(self) -> None:
        if self._isGoing:
            # What is answered at once must not begin the next within itself.
            return
        self._isGoing = True
        while self._queues and self._underWay < self._threads:
            address, queue = self._queues.popitem(last=False)
            check = queue.popleft()
            if queue:
                self._queues[address] = queue
            self._begin(check)
        self._isGoing = False

    def _begin(self, check: _Check) -> None:
        if self._isRemembered(check.digest):
            # The same one, of another box of its account, was found right meanwhile.
            self.waiting -= 1
            check.done.callback(True)
            return
        secretHash, digest = check.secretHash, check.digest

        def checked(isRight: bool) -> bool:
            if isRight and secretHash:
                self._right[digest] = None
                if len(self._right) > _MAX_REMEMBERED:
                    self._right.popitem(last=False)
            return isRight and bool(secretHash)

        def over(result: bool | Failure) -> bool | Failure:
            self._underWay -= 1
            self.waiting -= 1
            return result

        self._underWay += 1
        called = self._inThread(verify, secretHash or _NOBODY, check.secret)
        called.addBoth(over).addCallback(checked).chainDeferred(check.done)
        called.addCallback(lambda _: self._goOn())


def verify(secretHash: str, secret: bytes) -> bool:
    """
    Whether a secret is the one that was hashed. Takes its time.

    @param secretHash: argon2id, in PHC form; what is none is nobody's
    """
    try:
        return verify_secret(secretHash.encode(), secret, Type.ID)
    except VerifyMismatchError:
        return False
    except (InvalidHashError, VerificationError):
        PasswordChecker.log.error("a secret's hash in the directory is no argon2 hash")
        return False
