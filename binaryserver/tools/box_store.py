"""
What a simulated box keeps: its tracks until they are acked, and, over runs, where it stands.

A track is worked out from its index whenever it is needed, and always the same: so the store of a box holds ranges of
indices and no bytes, however many tracks wait.
"""

from __future__ import annotations

import json
import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from binaryserver.errors import ConfigError

STREAM_MAX: Final = (1 << 64) - 1


class Recording(NamedTuple):
    """
    A stretch of driving during which a box recorded tracks: all that their contents follow from.

    @ivar first: index of the first track
    @ivar startMs: Unix ms, when that was recorded
    @ivar stepMs: ms from track to track
    @ivar place: s of driving before the first track (see L{binaryserver.tools.box_route.Route.odometer})
    """

    first: int
    startMs: int
    stepMs: int
    place: int

    @property
    def stride(self) -> int:
        """
        s of driving from track to track.
        """
        return max(1, self.stepMs // 1000)


class Batch(NamedTuple):
    """
    Tracks with consecutive indices of one recording.

    @ivar first: index of the first track
    @ivar end: the index after the last one
    """

    first: int
    end: int
    recording: Recording


class TrackStore:
    """
    The tracks of one box that are not acked yet: those that wait to be sent, in order, and those taken to be sent.

    @ivar stream: names this store for ever; never 0
    @ivar next: the index that the next recorded track gets
    @ivar place: s of driving up to there
    @ivar latestMs: Unix ms; no track was recorded after it
    @ivar sentEnd: in this run, every index below it has been sent at least once
    @ivar waiting: how many tracks wait to be sent
    @ivar taken: batches that were taken and neither acked nor put back, by first index, in the order of taking
    """

    def __init__(self, stream: int, place: int = 0) -> None:
        self.stream = stream
        self.next = 1
        self.place = place
        self.latestMs = 0
        self.sentEnd = 0
        self.waiting = 0
        self.taken: dict[int, Batch] = {}
        self._pending: deque[Batch] = deque()
        self._knownEnd = 0

    @property
    def acked(self) -> int:
        """
        The last index up to which all are acked, without a gap; 0 if none is.
        """
        firsts = list(self.taken)
        if self._pending:
            firsts.append(self._pending[0].first)
        return min(firsts, default=self.next) - 1

    def record(self, count: int, endMs: int, stepMs: int, after: int = 0, leastMs: int = 1) -> None:
        """
        Record tracks: all later than those that are there, so that the steps shrink where there is no room for them.

        @param endMs: Unix ms, when the last of them is recorded
        @param stepMs: ms from one to the next
        @param after: an index that they must lie behind, as it is in use already
        @param leastMs: ms that the steps do not shrink below: the last tracks are rather of a time to come
        """
        self.next = max(self.next, after + 1)
        if not count:
            return
        startMs = endMs - (count - 1) * stepMs
        if startMs - stepMs < self.latestMs:
            stepMs = max(leastMs, (endMs - self.latestMs) // count)
            startMs = self.latestMs + stepMs
        recording = Recording(self.next, startMs, stepMs, self.place)
        self._pending.append(Batch(self.next, self.next + count, recording))
        self.next += count
        self.place += count * recording.stride
        self.latestMs = startMs + (count - 1) * stepMs
        self.waiting += count

    def head(self) -> int | None:
        """
        The index that L{take} would begin with.
        """
        return self._pending[0].first if self._pending else None

    def peek(self, limit: int) -> Batch:
        """
        What L{take} would give.
        """
        head = self._pending[0]
        return Batch(head.first, min(head.first + limit, head.end), head.recording)

    def take(self, limit: int) -> tuple[Batch, int]:
        """
        Take what is to be sent next. There must be something.

        @param limit: the most tracks
        @return: the batch, and how many of its tracks have been sent before in this run
        """
        head = self._pending[0]
        batch = self.peek(limit)
        if batch.end == head.end:
            self._pending.popleft()
        else:
            self._pending[0] = head._replace(first=batch.end)
        self.taken[batch.first] = batch
        size = batch.end - batch.first
        self.waiting -= size
        again = min(size, max(0, self.sentEnd - batch.first))
        if batch.end > self.sentEnd:
            self.sentEnd = batch.end
        return batch, again

    def ack(self, batch: Batch) -> int:
        """
        Forget a taken batch: it is durable.

        @return: how many tracks it had
        """
        del self.taken[batch.first]
        return batch.end - batch.first

    def putBack(self) -> None:
        """
        All that is taken waits again, to be cut anew.
        """
        batches = sorted((*self.taken.values(), *self._pending))
        self.waiting += sum(batch.end - batch.first for batch in self.taken.values())
        self.taken.clear()
        self._pending.clear()
        for batch in batches:
            last = self._pending[-1] if self._pending else None
            if last is not None and last.end == batch.first and last.recording is batch.recording:
                self._pending[-1] = last._replace(end=batch.end)
            else:
                self._pending.append(batch)

    def drop(self, lastIndex: int) -> int:
        """
        Forget what waits, has been sent before, be it in an earlier run, and has an index of at most C{lastIndex}.

        @return: how many tracks that were
        """
        end = min(lastIndex + 1, max(self.sentEnd, self._knownEnd))
        dropped = 0
        while self._pending and self._pending[0].first < end:
            head = self._pending.popleft()
            dropped += min(head.end, end) - head.first
            if head.end > end:
                self._pending.appendleft(head._replace(first=end))
        self.waiting -= dropped
        return dropped

    def toJson(self) -> dict[str, object]:
        """
        What L{fromJson} needs to go on in another run.
        """
        unacked = sorted((*self.taken.values(), *self._pending))
        return {
            "stream": self.stream,
            "acked": self.acked,
            "next": self.next,
            "place": self.place,
            "latest_ms": self.latestMs,
            "unacked": [
                {"first": batch.first, "end": batch.end, "recording": batch.recording._asdict()} for batch in unacked
            ],
        }

    @classmethod
    def fromJson(cls, saved: dict[str, object]) -> TrackStore:
        """
        @raise ValueError: C{saved} is not what L{toJson} gives
        """
        try:
            store = cls(_number(saved["stream"]), _number(saved["place"]))
            store.next = store._knownEnd = _number(saved["next"])
            store.latestMs = _number(saved["latest_ms"])
            recordings: dict[Recording, Recording] = {}
            for entry in saved["unacked"]:  # type: ignore[attr-defined]  # checked by the except below
                recording = Recording(**{name: _number(entry["recording"][name]) for name in Recording._fields})
                recording = recordings.setdefault(recording, recording)
                store._pending.append(Batch(_number(entry["first"]), _number(entry["end"]), recording))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{error!r} in the state of a box") from error
        end = 0
        for batch in store._pending:
            if not end <= batch.first < batch.end <= store.next:
                raise ValueError("the unacked indices of a box overlap")
            end = batch.end
            store.waiting += batch.end - batch.first
        if not 0 < store.stream <= STREAM_MAX:
            raise ValueError(f"{store.stream} is not a stream")
        return store


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a number")
    return value


class StateDirectory:
    """
    Keeps the stores of boxes over runs, one JSON file a box.

    A run that is killed leaves older files behind, which costs nothing but tracks that are sent again: the gateway's
    index says which those are.
    """

    def __init__(self, path: str) -> None:
        """
        @raise ConfigError: C{path} is not, and cannot be made, a directory
        """
        self._path = Path(path)
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("--state", f"{path}: {error.strerror}") from error

    def load(self, account: str, asset: str) -> TrackStore | None:
        """
        @return: the store of a box; L{None} if none is kept
        @raise ConfigError: the box's file cannot be read, or is another account's
        """
        path = self._file(asset)
        try:
            saved = json.loads(path.read_text("utf-8"))
            if saved["account"] != account:
                raise ConfigError("--state", f"{path} belongs to account {saved['account']!r}")
            return TrackStore.fromJson(saved)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError("--state", f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError("--state", f"{path} is not the state of a box: {error}") from error

    def save(self, account: str, asset: str, store: TrackStore) -> None:
        """
        Keep the store of a box, in place of what was kept of it.

        @raise ConfigError: the file cannot be written
        """
        path = self._file(asset)
        part = path.with_suffix(".part")
        try:
            part.write_text(json.dumps({"account": account, "asset": asset, **store.toJson()}, indent=1), "utf-8")
            os.replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise ConfigError("--state", f"{path}: {error.strerror}") from error

    def _file(self, asset: str) -> Path:
        return self._path / f"{asset}.json"
