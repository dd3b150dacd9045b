"""
Secrets of boxes against their hashes: slow by design, so never on the reactor's thread, and never more at once than the
process can bear.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Callable

from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from argon2.low_level import Type, verify_secret
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from binaryserver.errors import LocalError

_MAX_REMEMBERED = 100_000

# Of a random secret that nobody has, with what binaryserver-ctl hash-secret does: who names a box that does not exist
# waits as long as who gives a wrong secret.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$rVcvgQ9F5r2jSfkzn3kPfg$3Q5J4oN4KqVhOZ0vVb2wBzvXJYb6wq3f7Dq0yJw3JxA"


class CheckerBusy(LocalError):
    """
    As many secrets wait to be checked as may.
    """


class PasswordChecker:
    """
    Of one process. A secret that was right is remembered for as long as the process runs, by a digest that is of no use
    elsewhere: boxes come back often, and in their thousands at a time.

    @ivar waiting: checks under way
    """

    log = Logger()

    def __init__(self, inThread: Callable[..., Deferred[bool]], most: int) -> None:
        """
        @param inThread: calls a function in one of a few threads
        @param most: checks that may be under way, those that wait for a thread included
        """
        self._inThread = inThread
        self._most = most
        self._key = os.urandom(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self.waiting = 0

    def check(self, secretHash: str, secret: bytes) -> Deferred[bool]:
        """
        Whether a secret is the one that was hashed.

        @param secretHash: argon2, in PHC form; empty: nobody's, which takes its time and is never right
        @return: fails with L{CheckerBusy}
        """
        digest = hmac.digest(self._key, secretHash.encode() + b"\0" + hashlib.sha256(secret).digest(), "sha256")
        if digest in self._right:
            self._right.move_to_end(digest)
            return succeed(True)
        if self.waiting >= self._most:
            return fail(CheckerBusy(f"{self.waiting} secrets wait to be checked already"))
        self.waiting += 1

        def checked(isRight: bool) -> bool:
            if isRight and secretHash:
                self._right[digest] = None
                if len(self._right) > _MAX_REMEMBERED:
                    self._right.popitem(last=False)
            return isRight and bool(secretHash)

        def over(result: object) -> object:
            self.waiting -= 1
            return result

        done: Deferred[bool] = self._inThread(verify, secretHash or _NOBODY, secret)
        done.addBoth(over)
        return done.addCallback(checked)


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
