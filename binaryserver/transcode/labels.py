"""
Names and types of a track's fields, serialized once for each set of fields that boxes send.
"""

from __future__ import annotations

from typing import Protocol

from binaryserver.proto import cloudnext_pb2
from binaryserver.transcode.wire import lengthDelimited

_TYPES = {
    "int": cloudnext_pb2.FIELD_TYPE_INT,
    "bool": cloudnext_pb2.FIELD_TYPE_BOOL,
    "string": cloudnext_pb2.FIELD_TYPE_STRING,
    "double": cloudnext_pb2.FIELD_TYPE_DOUBLE,
    "bytes": cloudnext_pb2.FIELD_TYPE_BYTES,
}

# A fleet uses a handful of sets; a hostile box must not be able to make the cache grow, nor to slow the others down
# for long by emptying it.
_MAX_CACHED_SETS = 4096
_MAX_CACHED_FIELDS = 128


class FieldDictionary(Protocol):
    """
    What fields' numbers mean; L{Directory<binaryserver.directory.cache.Directory>} knows.
    """

    def fieldName(self, account: str, number: int) -> tuple[str, str] | None:
        """
        Name and type of a numbered field of a track; L{None}: the account has none of that number. At once.
        """


class FieldLabels:
    """
    One account's labels.
    """

    def __init__(self, directory: FieldDictionary, account: str) -> None:
        self._directory = directory
        self._account = account
        self._bySet: dict[tuple[int, ...], bytes] = {}
        self.get = self._bySet.get

    def make(self, numbers: tuple[int, ...]) -> bytes:
        """
        The C{field_labels} of an Event, serialized, for fields of these numbers in this order. Callers ask C{get} first
        (a plain dict's, for speed), which knows what was made before.
        """
        labels = b"".join(self._one(number) for number in numbers)
        if len(numbers) <= _MAX_CACHED_FIELDS:
            if len(self._bySet) >= _MAX_CACHED_SETS:
                self._bySet.clear()
            self._bySet[numbers] = labels
        return labels

    def _one(self, number: int) -> bytes:
        known = self._directory.fieldName(self._account, number)
        label = cloudnext_pb2.FieldLabel()
        if known is not None:
            label.name, label.type = known[0], _TYPES[known[1]]
        return lengthDelimited(cloudnext_pb2.Event.FIELD_LABELS_FIELD_NUMBER, label.SerializeToString())
