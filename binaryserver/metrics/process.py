"""
What a process of any kind tells of itself.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from math import inf
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

import binaryserver
from binaryserver.metrics.families import PREFIX, counter, gauge, histogram
from binaryserver.metrics.histogram import Histogram

_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessCollector(Collector):
    """
    Of this one.
    """

    def __init__(self, instance: str, startedAt: float, lag: Histogram) -> None:
        """
        @param instance: its id
        @param startedAt: s of Unix time
        @param lag: of its reactor, s
        """
        self._instance = instance
        self._startedAt = startedAt
        self._lag = lag

    def collect(self) -> Iterable[Metric]:
        """
        See L{Collector.collect}.
        """
        build = GaugeMetricFamily(PREFIX + "build_info", "1; the labels tell.", labels=("version", "instance_id"))
        build.add_metric((binaryserver.__version__, self._instance), 1)
        yield build
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield counter("process_cpu_seconds", "CPU time of all threads, user and system.", _cpu(usage))
        yield gauge("process_resident_memory_bytes", "Memory that is not swapped out or given back.", _resident())
        yield gauge("process_open_fds", "Open file descriptors.", _descriptors())
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield gauge("process_max_fds", "Descriptors that it may open.", inf if most == resource.RLIM_INFINITY else most)
        yield gauge("process_start_time_seconds", "When it started, Unix time.", self._startedAt)
        yield histogram("reactor_lag_seconds", "By how much the reactor is late.", self._lag)


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _descriptors() -> int:
    # Linux 6.2 and later tell their number without listing them, which with a link each takes some ms.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
