"""
InfluxDB's line protocol.

As Telegraf writes what it scrapes (C{metric_version = 1}), so that dashboards made for that fit: a measurement a
family, the labels as tags, and the value as the field C{counter} or C{gauge}; of a histogram C{sum}, C{count}, and each
bucket as a field named by its bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import isfinite

from prometheus_client import Metric

DATAGRAM = 1400
"""The most bytes of a datagram: what passes everywhere in one piece."""

_ESCAPES = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ ", "\n": "\\ "})


def asLines(families: Iterable[Metric], tags: Mapping[str, str], atNs: int) -> list[bytes]:
    """
    Families as lines, without their ends.

    @param tags: of all of them
    @param atNs: Unix time, ns
    """
    lines = []
    for family in families:
        points: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, float]] = {}
        for name, labels, value, *_ in family.samples:
            if not isfinite(value):
                continue
            measurement, field = name, family.type
            if family.type == "histogram":
                measurement, suffix = family.name, name.removeprefix(f"{family.name}_")
                field = labels["le"] if suffix == "bucket" else suffix
            kept = tuple(sorted((key, text) for key, text in {**tags, **labels}.items() if text and key != "le"))
            points.setdefault((measurement, kept), {})[field] = value
        lines += [_line(*place, fields, atNs) for place, fields in points.items()]
    return lines


def _line(measurement: str, tags: Iterable[tuple[str, str]], fields: Mapping[str, float], atNs: int) -> bytes:
    head = ",".join([_escaped(measurement), *(f"{_escaped(key)}={_escaped(text)}" for key, text in tags)])
    values = ",".join(f"{_escaped(key)}={float(value)!r}" for key, value in fields.items())
    return f"{head} {values} {atNs}".encode()


def _escaped(text: str) -> str:
    # A backslash at its end would escape what follows.
    return text.rstrip("\\").translate(_ESCAPES)


def datagrams(lines: Iterable[bytes]) -> Iterator[bytes]:
    """
    Lines, as many together as a datagram holds; a longer one goes alone.
    """
    gathered: list[bytes] = []
    size = 0
    for line in lines:
        if gathered and size + len(line) + 1 > DATAGRAM:
            yield b"\n".join(gathered)
            gathered, size = [], 0
        gathered.append(line)
        size += len(line) + 1
    if gathered:
        yield b"\n".join(gathered)
