"""
Back ends by the scheme of the option that names them.

A third party adds one with a module in its own C{twisted/plugins} holding a L{BackEnd} that provides the kind's plugin
interface.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twisted.plugin import IPlugin, getPlugins
from twisted.python.reflect import namedAny
from zope.interface import Interface, alsoProvides

from binaryserver.errors import ConfigError
from binaryserver.interfaces import IBackEndPlugin
from binaryserver.secretvalues import withoutSecrets


@dataclass(frozen=True, slots=True)
class BackEndContext:
    """
    What a back end is given at its making.

    @ivar reactor: the reactor: C{IReactorTime}, C{IReactorThreads}, C{IReactorTCP}
    @ivar option: the option that named it, for L{ConfigError}s
    @ivar flushInterval: s, the longest that data waits in a buffer
    @ivar batchDeadline: s, the longest that a batch may wait for the bus
    @ivar startTimeout: s, after which checks at start give up
    @ivar stopTimeout: s, the longest that a stop may wait for what is pending
    @ivar topics: the topics that must exist
    """

    reactor: Any
    option: str
    flushInterval: float = 0.05
    batchDeadline: float = 60.0
    startTimeout: float = 15.0
    stopTimeout: float = 20.0
    topics: tuple[str, ...] = field(default=())


class BackEnd:
    """
    A plugin that makes a back end by calling C{factory(spec, context)}.

    @ivar factory: the fully qualified name of the callable, so that listing plugins imports nothing
    """

    def __init__(self, interface: type[Interface], scheme: str, factory: str, description: str) -> None:
        self.scheme = scheme
        self.factory = factory
        self.description = description
        alsoProvides(self, IPlugin, interface)

    def create(self, spec: str, context: BackEndContext) -> object:
        """
        See L{IBackEndPlugin.create}.
        """
        made: object = namedAny(self.factory)(spec, context)
        return made


def backEnds(interface: Any) -> dict[str, IBackEndPlugin]:
    """
    All plugins of one kind, by scheme.
    """
    return {plugin.scheme: plugin for plugin in getPlugins(interface)}


def createBackEnd(interface: Any, spec: str, context: BackEndContext) -> Any:
    """
    Make the back end that C{spec} names.

    @raise ConfigError: there is none of that scheme, or it does not understand C{spec}
    """
    scheme = spec.partition(":")[0].lower()
    known = backEnds(interface)
    if scheme not in known:
        shown = withoutSecrets(spec)
        raise ConfigError(context.option, f"{shown!r} names no back end; known: {', '.join(sorted(known))}")
    return known[scheme].create(spec, context)
