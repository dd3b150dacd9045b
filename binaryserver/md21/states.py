"""
The states of an MD21 connection: what may follow what.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class ConnectionState(Enum):
    """
    What is awaited.
    """

    awaitingHeader = "the header"
    awaitingDecision = "the owner's answer to the header"
    awaitingTls = "the end of the TLS handshake"
    open = "PDUs"
    closed = "nothing more"


class Input(Enum):
    """
    What takes a connection from state to state.
    """

    header = "a header came"
    accept = "the owner accepted it"
    refuse = "the owner refused it"
    startTls = "the owner starts TLS"
    secured = "the TLS handshake is done"
    disconnect = "a disconnect came"
    fail = "the box broke a rule"
    close = "the owner closed the link"


_State = ConnectionState

TRANSITIONS: Final = {
    (_State.awaitingHeader, Input.header): _State.awaitingDecision,
    (_State.awaitingDecision, Input.accept): _State.open,
    (_State.awaitingDecision, Input.refuse): _State.closed,
    (_State.awaitingDecision, Input.startTls): _State.awaitingTls,
    (_State.awaitingTls, Input.secured): _State.awaitingHeader,
    (_State.open, Input.disconnect): _State.closed,
    (_State.awaitingHeader, Input.fail): _State.closed,
    (_State.awaitingDecision, Input.fail): _State.closed,
    (_State.awaitingTls, Input.fail): _State.closed,
    (_State.open, Input.fail): _State.closed,
    (_State.awaitingHeader, Input.close): _State.closed,
    (_State.awaitingDecision, Input.close): _State.closed,
    (_State.awaitingTls, Input.close): _State.closed,
    (_State.open, Input.close): _State.closed,
    (_State.closed, Input.close): _State.closed,
}
