"""
C{binaryserver-ctl directory changed}.
"""

from __future__ import annotations

import argparse

from binaryserver.tools.ctl_http import AskFailed, HttpSide, ask, fail, tell
from binaryserver.tools.ctl_send import ANSWER_TIMEOUT


def run(options: argparse.Namespace) -> int:
    """
    Tell every gateway that something in the directory is not as it was.

    @return: the exit status
    """
    body = {name: value for name in ("account", "asset") if (value := getattr(options, name))}
    try:
        side = HttpSide.of(options)
        ask(side, "/api/directory/changes", body=body, expected=202, timeout=ANSWER_TIMEOUT)
    except AskFailed as error:
        return fail(error)
    except KeyboardInterrupt:
        return 1
    tell(f"the gateways will ask again for {'/'.join(body.values()) or 'everything'}")
    return 0
