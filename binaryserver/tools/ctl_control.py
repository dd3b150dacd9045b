"""
C{binaryserver-ctl drain} and C{binaryserver-ctl logs}.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from binaryserver.tools.ctl_http import AskFailed, HttpSide, ask, fail, tell
from binaryserver.tools.terminal import printable


def runDrain(options: argparse.Namespace) -> int:
    """
    Have an instance drain, and end.

    @return: the exit status
    """
    body = {"instance": options.instance} if options.instance else {}
    try:
        answer = ask(HttpSide.of(options), "/api/drain", body=body, expected=202).json()
        text = json.dumps(answer) if options.json else printable(f"instance {answer['instance']} drains")
    except AskFailed as error:
        return fail(error)
    except (KeyError, TypeError):
        return fail(f"{options.http}: is this a gateway's HTTP side?")
    except KeyboardInterrupt:
        return 1
    tell(text)
    return 0


def runLogs(options: argparse.Namespace) -> int:
    """
    Tell what a gateway logs, or change it.

    @return: the exit status
    """
    words = options.words
    if len(words) > 2:
        return fail("logs: give [NAMESPACE] LEVEL, or nothing")
    try:
        side = HttpSide.of(options)
        if words:
            body = {"level": words[-1]} | ({"namespace": words[0]} if len(words) == 2 else {})
            answer = ask(side, "/api/logs", method="PUT", body=body).json()
        else:
            answer = ask(side, "/api/logs").json()
        lines = [json.dumps(answer)] if options.json else _describe(answer)
    except AskFailed as error:
        return fail(error)
    except (AttributeError, KeyError, TypeError):
        return fail(f"{options.http}: is this a gateway's HTTP side?")
    except KeyboardInterrupt:
        return 1
    for line in lines:
        tell(line)
    return 0


def _describe(answer: dict[str, Any]) -> list[str]:
    """
    What is logged, for a person.
    """
    levels = {"everything else" if answer["namespaces"] else "everything": answer["level"]}
    return [printable(f"{namespace}: {level}") for namespace, level in (answer["namespaces"] | levels).items()]
