"""
Why a box is offline, in sentences: what the session store remembers of it, held against the directory's word of now.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from binaryserver.directory.records import Account, Box
from binaryserver.model import BoxKey
from binaryserver.ops.boxjson import recordJson
from binaryserver.ops.reasonwords import wordsFor
from binaryserver.session.boxrecords import BoxEvent, BoxRecord, BoxSummary, EventKind, MailboxSummary

NOTHING: Final = BoxRecord(None, False, (), None, 0, MailboxSummary(), ())
"""What is kept of a box that nobody heard of."""

_OFTEN: Final = 3
"""takeovers in a row that are no accident"""

_LIMITED: Final = ("arrivals a second", "are connected already")
"""What refusals say that are over once others have gone."""


class DirectoryWord(NamedTuple):
    """
    What the directory says of a box now.

    @ivar trouble: why it says nothing; empty: it does
    @ivar links: boxes of the account that are connected
    """

    account: Account | None = None
    box: Box | None = None
    trouble: str = ""
    links: int = 0

    @property
    def admits(self) -> bool:
        """
        It has nothing against the box, as long as it proves who it is.
        """
        account, box = self.account, self.box
        if account is None or not account.isActive:
            return False
        return account.admitsAnyBox or (box is not None and not box.isRevoked)

    def asJson(self) -> dict[str, object]:
        """
        In short.
        """
        account, box = self.account, self.box
        accountIs = "absent" if account is None else "active" if account.isActive else "inactive"
        boxIs = "absent" if box is None else "revoked" if box.isRevoked else "known"
        if account is not None and account.admitsAnyBox:
            boxIs = "any"
        return {
            "account": "unknown" if self.trouble else accountIs,
            "box": "unknown" if self.trouble else boxIs,
            "trouble": self.trouble,
            "links": self.links,
            "max_links": 0 if account is None else account.limits.links,
        }


class Explanation:
    """
    Of one box.

    @ivar why: sentences, what matters most first
    @ivar advice: what to do, likewise
    """

    def __init__(self, box: BoxKey, record: BoxRecord, word: DirectoryWord, others: tuple[str, ...]) -> None:
        """
        @param others: other accounts under which the asset came or was refused
        """
        self._box = box
        self._record = record
        self._word = word
        self._others = others
        self.why: list[str] = []
        self.advice: list[str] = []
        self._standing()
        self._directory()
        self._refusals()
        self._takeovers()
        self._elsewhere()
        if not self._isConnected and not self.advice:
            self.advice.append("See whether the box has power and coverage, and the right address of the gateway")
        self.advice = [f"{sentence}." for sentence in dict.fromkeys(self.advice)]

    def asJson(self) -> dict[str, object]:
        """
        The whole.
        """
        return {
            "state": self.state,
            "why": self.why,
            "advice": self.advice,
            "last_heard": self.lastHeard,
            "directory": self._word.asJson(),
            "other_accounts": list(self._others),
            **recordJson(self._box, self._record),
        }

    @property
    def state(self) -> str:
        """
        C{connected}, C{disconnected}, or C{never_connected}.
        """
        if self._record.summary is None:
            return "never_connected"
        return "connected" if self._isConnected else "disconnected"

    @property
    def lastHeard(self) -> int | None:
        """
        Unix ms, when it last came, went or tried; L{None}: never.
        """
        summary, events = self._record.summary, self._record.events
        times = [event.at for event in events] + ([summary.owner.seenAt] if summary is not None else [])
        return max(times, default=None)

    @property
    def _isConnected(self) -> bool:
        summary = self._record.summary
        return summary is not None and summary.owner.connected

    def _standing(self) -> None:
        """
        Whether it is here, and if not, how its last link ended.
        """
        summary = self._record.summary
        if summary is None:
            self.why.append("It has never been connected.")
        elif summary.owner.connected:
            self._here(summary)
        else:
            self._gone(summary)

    def _here(self, summary: BoxSummary) -> None:
        owner, mailbox = summary.owner, self._record.mailbox
        self.why.append(
            f"It is connected: by {summary.protocol} from {summary.peer} to {owner.incarnation}, "
            f"since {self._time(summary.since)}, link {owner.linkEpoch}."
        )
        if not self._record.isOwnerAlive:
            self.why.append(
                f"But the instance {owner.incarnation} is dead: unless the box comes back, it is told gone soon."
            )
            self.advice.append("Wait half a minute and ask again; see why that instance died")
        elif mailbox.messages and not summary.isListening:
            self.why.append(
                f"{mailbox.messages} messages wait for it, and it is not subscribed to its downlink: none is sent."
            )
            self.advice.append("Have the box subscribe to its downlink")

    def _gone(self, summary: BoxSummary) -> None:
        owner = summary.owner
        ends = [event for event in self._record.events if event.kind is EventKind.disconnected]
        end = ends[-1] if ends and ends[-1].linkEpoch <= owner.linkEpoch and ends[-1].at >= owner.seenAt else None
        since = f"It is disconnected since {self._time(owner.seenAt)}"
        if end is None:
            self.why.append(f"{since}; why is not remembered.")
            return
        words = wordsFor(end.reason)
        detail = f" ({end.reason}{': ' if end.detail else ''}{end.detail})"
        often = f" It went like that {end.times} times since {self._time(end.since)}." if end.times > 1 else ""
        self.why.append(
            f"{since}, because {words.what}{detail}. Its last link was {end.linkEpoch}, by {end.protocol} "
            f"from {end.peer} to {end.instance}.{often}"
        )
        if self._word.admits and not self._lastRefusal():
            # Of who may not be in, why the link ended is known.
            self.advice.append(words.toDo)

    def _directory(self) -> None:
        """
        What the directory has against it now.
        """
        word, box = self._word, self._box
        account = word.account
        if word.trouble:
            self.why.append(f"What the directory says of it is not known: {word.trouble}.")
            self.advice.append("See that the directory answers: what it does not know, the gateway does not let in")
        elif not box.account:
            self.why.append("It gives no account, and there is none for boxes that do not.")
            self.advice.append("Give the box its account as its user name")
        elif account is None:
            self.why.append(f"The directory has no account {box.account}.")
            self.advice.append(f"Add account {box.account} to the directory, or correct what the box gives")
        elif not account.isActive:
            self.why.append(f"Its account {box.account} is not active: none of its boxes may be here.")
            self.advice.append(f"Make account {box.account} active in the directory, if it is to be served")
        elif word.box is None and not account.admitsAnyBox:
            self.why.append(f"The directory has no box {box.asset} of {box.account}.")
            self.advice.append(f"Add the box to account {box.account} in the directory, or correct the box's name")
        elif word.box is not None and word.box.isRevoked and not account.admitsAnyBox:
            self.why.append("The box is revoked: it may not be here.")
            self.advice.append("Take its revocation back in the directory, if it is to come in again")
        elif account.limits.links and word.links >= account.limits.links and not self._isConnected:
            self.why.append(
                f"As many boxes of {box.account} are connected as may be: {word.links} of {account.limits.links}."
            )
            self.advice.append(f"Disconnect others of {box.account}, or raise its limit of links in the directory")

    def _lastRefusal(self) -> BoxEvent | None:
        """
        The last one, if it has not been connected since.
        """
        summary = self._record.summary
        if self._isConnected:
            return None
        last = next((one for one in reversed(self._record.events) if one.kind is EventKind.refused), None)
        return last if last is not None and (summary is None or last.at >= summary.owner.seenAt) else None

    def _refusals(self) -> None:
        """
        Whether it tries, and why it is sent away.
        """
        summary, refused = self._record.summary, self._lastRefusal()
        if refused is None:
            if not self._isConnected:
                since = "" if summary is None else " since"
                self.why.append(f"Nothing has been heard of it{since}: it has not tried to connect.")
            return
        often = f"{refused.times} times since {self._time(refused.since)}, the last time" if refused.times > 1 else ""
        code = f" ({refused.reason})" if refused.reason else ""
        self.why.append(
            f"It tries, and is refused: {often or 'once,'} at {self._time(refused.at)}, by {refused.protocol} "
            f"from {refused.peer} to {refused.instance}, because: {refused.detail}{code}."
        )
        if not self._word.admits and not self._word.trouble:
            return
        if self._mayComeNow(refused):
            self.why.append("The directory has nothing against it now: what kept it out may be over.")
            self.advice.append("Wait for its next attempt")
        elif not any(words in refused.detail for words in _LIMITED) or not self.advice:
            self.advice.append(wordsFor(refused.reason).toDo)

    def _mayComeNow(self, refused: BoxEvent) -> bool:
        """
        It was the directory's word alone that kept it out, and that is another one now.
        """
        own = ("the box is revoked", "the account is not active", "the account has no such box", "no such account")
        return self._word.admits and refused.detail in own

    def _takeovers(self) -> None:
        """
        Whether it may be two.
        """
        taken = [event for event in self._record.events if event.kind is EventKind.takenOver]
        times = sum(event.times for event in taken)
        if times >= _OFTEN:
            self.why.append(
                f"Its link was taken over {times} times since {self._time(taken[0].since)} by another of the same "
                f"name, the last time from {taken[-1].peer} at {self._time(taken[-1].at)}."
            )
            self.advice.append(
                "If its addresses differ, two devices have this name: give each its own; "
                "if not, its connection breaks without its noticing"
            )

    def _elsewhere(self) -> None:
        """
        Whether it comes under another account.
        """
        if self._others:
            names = " and ".join(other or "no account" for other in self._others)
            self.why.append(f"A box of the same name came, or was refused, under {names}.")
            self.advice.append("Ask for it with that account, too: the box may give the wrong one")

    def _time(self, unixMs: int) -> str:
        try:
            text = datetime.fromtimestamp(unixMs / 1000, UTC).isoformat(sep=" ", timespec="seconds")
        except (ValueError, OverflowError, OSError):
            return f"{unixMs} ms"
        return f"{text.removesuffix('+00:00')} UTC"
