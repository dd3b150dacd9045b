"""
C{binaryserver-ctl config check}.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from twisted.internet.defer import succeed
from twisted.internet.task import react

from binaryserver.config import ConfigFile, Problem, readConfig
from binaryserver.errors import ConfigError
from binaryserver.options import SETTINGS
from binaryserver.tools.ctl_http import fail, tell


def run(options: argparse.Namespace) -> int:
    """
    Look for what is wrong with a configuration file, and tell all of it.

    @return: the exit status
    """
    try:
        file = readConfig(options.file)
    except ConfigError as error:
        detail = str(error).removeprefix(f"{error.option}: {options.file}: ")
        return _tell(options, [Problem(0, "", detail)])
    problems = [*file.unknown(SETTINGS), *file.unfit(SETTINGS)]
    return _tell(options, sorted(problems) or _build(file))


def _tell(options: argparse.Namespace, problems: list[Problem]) -> int:
    if options.json:
        tell(json.dumps({"file": options.file, "problems": [problem._asdict() for problem in problems]}))
    elif not problems:
        tell(f"{options.file}: a gateway can start with it, as far as can be told without")
    else:
        for problem in problems:
            fail(problem.text(options.file))
    return 1 if problems else 0


def _build(file: ConfigFile) -> list[Problem]:
    """
    Make what a gateway would be made of, and open nothing: what is wrong with a value shows then.
    """
    settings: dict[str, Any] = {one.name: one.default for one in SETTINGS}
    settings |= {one.name: one.parse(file.values[one.name], "") for one in SETTINGS if one.name in file.values}
    settings["instance"] = settings["instance"] or os.uname().nodename
    found: list[Problem] = []

    def attempt(reactor: Any) -> Any:
        try:
            buildAll(reactor, settings)
        except ConfigError as error:
            key = error.option.removeprefix("--")
            detail = f"cannot be used: {str(error).removeprefix(f'{error.option}: ')}"
            found.append(Problem(file.lines.get(key, 0), key, detail))
        return succeed(None)

    try:
        react(attempt)
    except SystemExit as ended:
        # How react always ends; what was not foreseen it has told.
        if ended.code:
            found.append(Problem(0, "", "it could not be tried"))
    return found


def buildAll(reactor: Any, settings: dict[str, Any]) -> None:
    """
    Every part of a gateway, and what the parent of workers looks at.

    @raise ConfigError: a setting cannot be used
    """
    # Half the gateway, which the other commands need not wait for.
    from binaryserver.assembly import Assembly
    from binaryserver.ops.logs import Logs, parseLevels
    from binaryserver.service import OrderedServices
    from binaryserver.session.registry import NoPeers

    Logs(settings["log-format"], parseLevels(settings["log-level"]), settings["instance"])
    assembly = Assembly(reactor, settings, f"{settings['instance']}@0", NoPeers())
    services = OrderedServices()
    assembly.addBackEnds(services)
    assembly.addHttp(services)
    if settings["workers"] > 1:
        assembly.checkWorkers()
    assembly.addGateway(services, assembly.listeners.all(), lambda: None)
