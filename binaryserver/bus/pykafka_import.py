"""
The one place that imports pykafka, with what pykafka 2.8.0 misses on today's Python put right.

pykafka wants C{parse_version} of C{pkg_resources}, which setuptools 81 and later no longer carry. It needs it only to
compare broker versions that are given to its own C{KafkaClient}, which is not used here; so while it is imported, and
no longer, a module with that one function stands in. What else it imports (kazoo for ZooKeeper) loads on Python 3.11 to
3.13 as it is.

Importing this module fails with C{ImportError} where pykafka is not installed.
"""

# What pykafka's modules hold has no types. The names are given on as they are.

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

from packaging.version import parse

__all__ = [
    "ApiVersionsRequest",
    "ApiVersionsResponse",
    "BrokerConnection",
    "MetadataRequestV4",
    "MetadataResponseV4",
    "Request",
    "Response",
    "ThreadingHandler",
    "unpackFrom",
]


@contextmanager
def _pkgResources() -> Iterator[None]:
    """
    Have a C{pkg_resources} for as long as the block lasts, if there is none.
    """
    if "pkg_resources" in sys.modules or find_spec("pkg_resources") is not None:
        yield
        return
    standIn = ModuleType("pkg_resources")
    standIn.parse_version = parse  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = standIn
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]


with _pkgResources():
    from pykafka.connection import BrokerConnection
    from pykafka.handlers import ThreadingHandler
    from pykafka.protocol.admin import ApiVersionsRequest, ApiVersionsResponse
    from pykafka.protocol.base import Request, Response
    from pykafka.protocol.metadata import MetadataRequestV4, MetadataResponseV4
    from pykafka.utils.struct_helpers import unpack_from as unpackFrom
