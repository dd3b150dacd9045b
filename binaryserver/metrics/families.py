"""
The forms in which numbers are given: families of samples, as C{prometheus_client} has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from binaryserver.metrics.histogram import Histogram

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Of L{asText}."""

PREFIX = "binaryserver_"


def counter(name: str, help_: str, value: float) -> Metric:
    """
    What only grows.

    @param name: without L{PREFIX} and C{_total}
    """
    return CounterMetricFamily(PREFIX + name, help_, value=value)


def gauge(name: str, help_: str, value: float) -> Metric:
    """
    What goes up and down.

    @param name: without L{PREFIX}
    """
    return GaugeMetricFamily(PREFIX + name, help_, value=value)


def counters(name: str, help_: str, label: str, values: Mapping[str, float]) -> Metric:
    """
    L{counter}, one for each value of a label.
    """
    family = CounterMetricFamily(PREFIX + name, help_, labels=(label,))
    for which, value in values.items():
        family.add_metric((which,), value)
    return family


def gauges(name: str, help_: str, label: str, values: Mapping[str, float]) -> Metric:
    """
    L{gauge}, one for each value of a label.
    """
    family = GaugeMetricFamily(PREFIX + name, help_, labels=(label,))
    for which, value in values.items():
        family.add_metric((which,), value)
    return family


def histogram(name: str, help_: str, observed: Histogram) -> Metric:
    """
    How many observations are not above each bound.
    """
    return HistogramMetricFamily(PREFIX + name, help_, buckets=observed.cumulative(), sum_value=observed.sum)


class Gathered(Collector):
    """
    Families that are there already.
    """

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """
        See L{Collector.collect}.
        """
        return self._families


def asText(families: Iterable[Metric]) -> bytes:
    """
    Prometheus's text format.
    """
    return generate_latest(Gathered(families))


def toJson(families: Iterable[Metric]) -> list[Any]:
    """
    Families as a worker's message carries them: name, help, type, and the samples: name, labels, value.
    """
    return [
        [one.name, one.documentation, one.type, [[sample.name, sample.labels, sample.value] for sample in one.samples]]
        for one in families
    ]


def merged(byWorker: Mapping[str, list[Any]]) -> list[Metric]:
    """
    The families of several processes, each sample with a label C{worker} more.

    @param byWorker: what L{toJson} gave, by the name of the process
    """
    families: dict[str, Metric] = {}
    for worker, given in byWorker.items():
        for name, help_, kind, samples in given:
            family = families.get(name)
            if family is None:
                family = families[name] = Metric(name, help_, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, {**labels, "worker": worker}, value)
    return list(families.values())
