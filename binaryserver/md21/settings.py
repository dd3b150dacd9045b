"""
What the MD21 links of one process share beside the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from binaryserver.endpoints.upgrade import TlsUpgrade
    from binaryserver.md21.udp import UdpSide


@dataclass
class Md21Settings:
    """
    Made by what reads the options.

    @ivar upgrade: TLS for boxes that ask for it; L{None}: there is none
    @ivar requiresTls: a box without TLS is refused
    @ivar udp: the UDP side; L{None}: there is none
    @ivar activityTimeout: s, see L{binaryserver.md21.timers.Timeouts}
    @ivar ackTimeout: s, likewise
    """

    upgrade: TlsUpgrade | None = None
    requiresTls: bool = False
    udp: UdpSide | None = None
    activityTimeout: float = 300.0
    ackTimeout: float = 60.0
