"""
Under which names boxes are known downstream, where no link is at hand that knows: of messages' statuses, and of boxes
that left no link behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.directory.records import Account, PrivacyPolicy
from binaryserver.errors import LocalError
from binaryserver.model import BoxKey

if TYPE_CHECKING:
    from binaryserver.directory.cache import Directory
    from binaryserver.transcode.pseudonyms import Pseudonyms

_RETRY = 1.0

_A_TURN = 100
"""Boxes of one account that are told of in one turn of the reactor."""

_UNKNOWN = PrivacyPolicy(isPseudonymous=True)


class Published(NamedTuple):
    """
    A box as it is known downstream.

    @ivar box: its account, and its asset or pseudonym
    @ivar policy: its account's
    """

    box: BoxKey
    policy: PrivacyPolicy


class Names:
    """
    Of one process.
    """

    log = Logger()

    def __init__(self, directory: Directory, pseudonyms: Pseudonyms, clock: IReactorTime) -> None:
        self._directory = directory
        self._pseudonyms = pseudonyms
        self._clock = clock
        # What is to be told, by accounts that are being looked up.
        self._waiting: dict[str, deque[tuple[BoxKey, Callable[[Published], None]]]] = {}

    def published(self, box: BoxKey) -> Deferred[Published]:
        """
        Look a box's name up. A box whose account is not there (any more) is treated as one that asks for pseudonyms, as
        far as there is a key. Fails with L{DirectoryUnavailable}, or with L{PseudonymsUnavailable}: it has no name.
        """

        return self._directory.account(box.account).addCallback(self._published, box)

    def _published(self, account: Account | None, box: BoxKey) -> Published:
        if account is None:
            return Published(self._pseudonyms.published(box, None), _UNKNOWN)
        return Published(self._pseudonyms.published(box, account.privacy), account.privacy)

    def whenKnown(self, box: BoxKey, tell: Callable[[Published], None]) -> None:
        """
        Tell something of a box that has to be told: once its name is known, however long that takes. Of however many
        boxes of an account there is something to tell, it is looked up once.
        """
        waiting = self._waiting.get(box.account)
        if waiting is not None:
            waiting.append((box, tell))
            return
        self._waiting[box.account] = deque([(box, tell)])
        self._ask(box.account)

    def _ask(self, name: str) -> None:
        def failed(failure: Failure) -> None:
            if failure.check(LocalError):
                reason, count = failure.getErrorMessage(), len(self._waiting[name])
                self.log.warn(
                    "what there is to tell of {count} boxes of {account} waits: {reason}",
                    count=count,
                    account=name,
                    reason=reason,
                )
            else:
                self.log.failure("boxes could not be told of, in an unforeseen way; trying again", failure)
            self._clock.callLater(_RETRY, self._ask, name)

        self._directory.account(name).addCallback(self._tell, name).addErrback(failed)

    def _tell(self, account: Account | None, name: str) -> None:
        """
        Tell some of what waits for an account; the rest in the next turn of the reactor.

        @raise PseudonymsUnavailable: its boxes are to have pseudonyms, and there is no key
        """
        waiting = self._waiting[name]
        for _ in range(min(_A_TURN, len(waiting))):
            box, tell = waiting[0]
            published = self._published(account, box)
            waiting.popleft()
            try:
                tell(published)
            except Exception:
                self.log.failure("a box could not be told of, in an unforeseen way")
        if waiting:
            self._clock.callLater(0, self._ask, name)
        else:
            del self._waiting[name]
