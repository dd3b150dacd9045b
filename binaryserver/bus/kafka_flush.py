"""
One flush on its way through librdkafka.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError
from twisted.internet.defer import Deferred

from binaryserver.model import Record


class Flush:
    """
    One call of C{publish}, and what the delivery reports of its records say.

    The reports of one partition come in the order of its records, but for failures, which may come early: the broker
    takes an idempotent producer's records in no other order. So the last one tells that all have been told of, and
    those before it are only looked through for errors, by C{noteError}, which is a dict's own method and no Python
    code.

    @ivar records: those not yet handed to the producer; let go of early, as they are many
    @ivar error: why it failed, if it did
    @ivar pollAt: s of the reactor's clock, before which no report is to be expected
    """

    __slots__ = (
        "_reports",
        "_settled",
        "done",
        "error",
        "noteError",
        "partition",
        "pollAt",
        "records",
        "size",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        size: int,
        pollAt: float,
        settled: Callable[[Flush], None],
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records
        self.size = size
        self.pollAt = pollAt
        self.error: KafkaError | None = None
        self.done: Deferred[None] = Deferred()
        self._reports: dict[KafkaError | None, object] = {}
        self.noteError = self._reports.setdefault
        self._settled = settled

    def delivered(self, error: KafkaError | None, message: object) -> None:
        """
        The delivery report of the last record.
        """
        self.error = error or next(filter(None, self._reports), None)
        self._settled(self)
