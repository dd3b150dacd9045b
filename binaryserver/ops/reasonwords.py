"""
Why links end, in words for a person, with what can be done about it.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Words(NamedTuple):
    """
    @ivar what: what happened, behind "because"
    @ivar toDo: what whoever runs boxes can do; empty: nothing
    """

    what: str
    toDo: str = ""


_COVERAGE: Final = "Nothing is wrong here: see whether the vehicle has power and coverage, and wait for the box"

REASONS: Final = {
    "COLD_BOOT": Words("it starts anew, as after a loss of power", _COVERAGE),
    "SUSPEND_BOOT": Words("it wakes from its sleep", _COVERAGE),
    "IDLE_OUT": Words("it had nothing to do, and went to sleep", "It comes back with the next ignition or alarm"),
    "PPP_LOST": Words("it lost its mobile data connection", _COVERAGE),
    "MODEM_RESET": Words("its modem was reset", _COVERAGE),
    "SIM_ERROR": Words("its SIM card failed", "Have the SIM card and its contract looked at"),
    "ROAMING": Words("it is in a network that it must not use", "See whether its contract allows roaming there"),
    "CONNECTION_LOST": Words("it lost the connection", _COVERAGE),
    "NEW_CONFIG": Words("it took a new configuration", "If it stays away, look at that configuration"),
    "WRITE_ERROR": Words("it could not write to the connection", _COVERAGE),
    "READ_ERROR": Words("it could not read from the connection", _COVERAGE),
    "CLOSED_BY_SERVER": Words("an operator disconnected it", "It may come back by itself: revoke it to keep it out"),
    "SOCKET_CLOSED": Words("its connection was closed", _COVERAGE),
    "NETWORK_ERROR": Words("its connection failed", _COVERAGE),
    "CLIENT_DISCONNECT": Words("it said goodbye", "It comes back when it has something to send"),
    "NETWORK_ACTIVITY_TIMEOUT": Words("nothing was heard of it for longer than it had promised", _COVERAGE),
    "MESSAGE_ACK_TIMEOUT": Words(
        "it did not ack a message in time", "See whether its application hangs; messages wait for it"
    ),
    "BASEVALUE_ACK_TIMEOUT": Words("it did not ack its base values in time", "See whether its firmware is of this age"),
    "UNKNOWN_CHANNEL": Words(
        "it used a channel that it has not got", "Compare the box's configuration with its account's channels"
    ),
    "UNKNOWN_DYNAMIC_CHANNEL": Words(
        "it used a channel number that was not agreed on", "Have the box's firmware looked at"
    ),
    "SERVER_SHUTDOWN": Words(
        "its gateway stopped", "Others take it: if it does not come back, see whether it can reach them"
    ),
    "TAKEOVER": Words("another link of the same name was made"),
    "AUTH_FAILED_ASSET": Words(
        "it did not prove to be that box, or may not be here",
        "Give the box the secret or certificate that the directory has for it (binaryserver-ctl hash-secret), "
        "or the directory that of the box",
    ),
    "AUTH_FAILED_ACCOUNT": Words(
        "its account may not be here, or not with so many boxes",
        "Look at the account in the directory: whether it is there and active, and its limits",
    ),
    "AUTH_FAILED_IP": Words("it came from an address that may not", "Have it come by the network that it should"),
    "AUTH_FAILED_TRANSPORT": Words(
        "it came without the TLS or the client certificate that its account requires",
        "Have the box connect with TLS, and with a certificate of its own where the account requires it",
    ),
}

OUR_FAULT: Final = Words(
    "this side was not able to let it in",
    "Look at the gateway's /readyz and log; the box tries again by itself",
)


def wordsFor(reason: str) -> Words:
    """
    Those of a reason; of one that is not known, itself.

    @param reason: empty: it was the gateway's own fault
    """
    return REASONS.get(reason, Words(f"of {reason}", _COVERAGE)) if reason else OUR_FAULT
