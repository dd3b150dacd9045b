"""
C{binaryserver-ctl boxes}.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

from binaryserver.tools.ctl_http import AskFailed, HttpSide, ask, fail, tell
from binaryserver.tools.terminal import printable

_HEAD = ("ACCOUNT", "ASSET", "STATE", "SINCE", "PROTOCOL", "PEER", "INSTANCE")
_MEASURED = 200
"""Boxes by which the widths of the columns are chosen: the first ones."""
_PROGRESS = 0.25
"""s between two words of how far it is"""


def run(options: argparse.Namespace) -> int:
    """
    Print the list of boxes as it comes.

    @return: the exit status
    """
    names = ("account", "prefix", "state", "limit", "after")
    arguments: list[tuple[str, object]] = [(name, value) for name in names if (value := getattr(options, name))]
    progress = _Progress()
    try:
        answer = ask(HttpSide.of(options), "/api/boxes", arguments=arguments, accept="application/x-ndjson")
        lines = progress.counted(answer.lines(None))
        told = (line.decode() for line in lines) if options.json else _table(json.loads(line) for line in lines)
        for line in told:
            if not tell(line):
                break
    except AskFailed as error:
        progress.end()
        return fail(error)
    except (AttributeError, KeyError, TypeError, ValueError):
        progress.end()
        return fail(f"{options.http}: is this a gateway's HTTP side?")
    except KeyboardInterrupt:
        pass
    progress.end()
    return 0


class _Progress:
    """
    How many boxes there were, on a terminal that does not show them itself.
    """

    def __init__(self) -> None:
        self._isShown = sys.stderr.isatty() and not sys.stdout.isatty()
        self._next = 0.0
        self._count = 0

    def counted(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """
        The same lines.
        """
        for line in lines:
            self._count += 1
            if self._isShown and time.monotonic() >= self._next:
                self._next = time.monotonic() + _PROGRESS
                self._show()
            yield line

    def _show(self) -> None:
        print(f"\r{self._count} boxes", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """
        There are no more.
        """
        if self._isShown:
            self._show()
            print(file=sys.stderr)


def _table(boxes: Iterator[dict[str, Any]]) -> Iterator[str]:
    rows = (_row(box) for box in boxes)
    first = [_HEAD, *islice(rows, _MEASURED)]
    widths = [max(len(row[column]) for row in first) for column in range(len(_HEAD) - 1)]
    for row in chain(first, rows) if len(first) > 1 else ():
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield printable("  ".join([*cells, row[-1]]))


def _row(box: dict[str, Any]) -> tuple[str, ...]:
    isConnected = box["connected"]
    return (
        box["account"],
        box["asset"],
        "connected" if isConnected else "away",
        moment(box["since"] if isConnected else box["seen"]),
        box["protocol"],
        box["peer"],
        box["instance"],
    )


def moment(unixMs: int) -> str:
    """
    A time, to the second.

    @param unixMs: Unix ms
    """
    try:
        return datetime.fromtimestamp(unixMs / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{unixMs}ms"
