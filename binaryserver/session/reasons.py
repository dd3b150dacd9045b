"""
Why a link ended, in the words of presence events (DESIGN 9).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Reason(Enum):
    """
    The gateway's own reasons. A box's own come as its last will (MD30), or when it comes and goes (MD21).
    """

    socketClosed = "SOCKET_CLOSED"
    networkError = "NETWORK_ERROR"
    clientDisconnect = "CLIENT_DISCONNECT"
    networkActivityTimeout = "NETWORK_ACTIVITY_TIMEOUT"
    messageAckTimeout = "MESSAGE_ACK_TIMEOUT"
    baseValueAckTimeout = "BASEVALUE_ACK_TIMEOUT"
    unknownChannel = "UNKNOWN_CHANNEL"
    unknownDynamicChannel = "UNKNOWN_DYNAMIC_CHANNEL"
    serverShutdown = "SERVER_SHUTDOWN"
    takeover = "TAKEOVER"
    closedByServer = "CLOSED_BY_SERVER"
    authFailedAsset = "AUTH_FAILED_ASSET"
    authFailedAccount = "AUTH_FAILED_ACCOUNT"
    authFailedTransport = "AUTH_FAILED_TRANSPORT"


class Ending(NamedTuple):
    """
    @ivar detail: for a person to read; empty where the reason says it all
    @ivar isClean: the box left in good order: its will is void
    """

    reason: Reason
    detail: str = ""
    isClean: bool = False
