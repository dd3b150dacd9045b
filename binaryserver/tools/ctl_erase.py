"""
C{binaryserver-ctl erase}.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any
from urllib.parse import quote

from binaryserver.tools.ctl_http import AskFailed, HttpSide, ask, fail, tell
from binaryserver.tools.ctl_send import ANSWER_TIMEOUT, NOT_KNOWN, UNKNOWN_SINCE
from binaryserver.tools.terminal import printable


def run(options: argparse.Namespace) -> int:
    """
    Remove what a gateway keeps of a box, and print its report.

    @return: the exit status
    """
    try:
        if not options.yes:
            if not sys.stdin.isatty():
                return fail("--yes: must be given where nobody can be asked")
            if not _confirmed(options):
                return fail("nothing was removed")
        arguments: list[tuple[str, object]] = [("account", options.account)] if options.account else []
        path = f"/api/boxes/{quote(options.asset, safe='')}"
        side = HttpSide.of(options)
        report = ask(side, path, method="DELETE", arguments=arguments, timeout=ANSWER_TIMEOUT).json()
        lines = [json.dumps(report)] if options.json else _describe(report)
    except AskFailed as error:
        isLost = error.wasSent and error.status in (0, UNKNOWN_SINCE)
        return fail(error, NOT_KNOWN if isLost else 1)
    except (AttributeError, KeyError, TypeError):
        return fail(f"{options.http}: is this a gateway's HTTP side?", NOT_KNOWN)
    except KeyboardInterrupt:
        return NOT_KNOWN
    for line in lines:
        tell(line)
    return 0


def _confirmed(options: argparse.Namespace) -> bool:
    box = f"{options.account}/{options.asset}" if options.account else options.asset
    try:
        given = input(f"Remove everything that the gateway keeps of box {printable(box)}? [y/N] ")
    except EOFError:
        return False
    return given.strip().lower() in ("y", "yes")


def _describe(report: dict[str, Any]) -> list[str]:
    """
    A report, for a person.
    """
    removed = ", ".join(f"{number} {kind}" for kind, number in report["removed"].items())
    lines = [f"removed of {report['account']}/{report['asset']}: {removed}"]
    return [printable(line) for line in [*lines, *(f"remains: {one}" for one in report["remains"])]]
