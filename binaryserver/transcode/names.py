"""
Under which names boxes are known downstream, where no link is at hand that knows: of messages' statuses, and of boxes
that left no link behind.
"""

from __future__ import annotations

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

    def published(self, box: BoxKey) -> Deferred[Published]:
        """
        Look a box's name up. A box whose account is not there (any more) is treated as one that asks for pseudonyms, as
        far as there is a key. Fails with L{DirectoryUnavailable}, or with L{PseudonymsUnavailable}: it has no name.
        """

        def known(account: Account | None) -> Published:
            if account is None:
                return Published(self._pseudonyms.published(box, None), _UNKNOWN)
            return Published(self._pseudonyms.published(box, account.privacy), account.privacy)

        return self._directory.account(box.account).addCallback(known)

    def whenKnown(self, box: BoxKey, tell: Callable[[Published], None]) -> None:
        """
        Tell something of a box that has to be told: once its name is known, however long that takes.
        """

        def failed(failure: Failure) -> None:
            failure.trap(LocalError)
            self.log.warn("what there is to tell of a box waits: {reason}", reason=failure.getErrorMessage())
            self._clock.callLater(_RETRY, self.whenKnown, box, tell)

        def unforeseen(failure: Failure) -> None:
            self.log.failure("a box could not be told of, in an unforeseen way", failure)

        self.published(box).addCallbacks(tell, failed).addErrback(unforeseen)
