"""Continuous batching: the texts of all requests go on side by side, and join and leave between two steps."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from yinggem.common.errors import UserError
from yinggem.inference.networks.rows import Rows
from yinggem.serving.sample import Sample

BLOCK = 64  # prompt tokens that are read between two steps: the texts that go on wait for no longer


class FullError(UserError):
    """There are as many requests as may wait."""


class ClosedError(RuntimeError):
    """The batcher takes no more requests: its model was replaced."""


class Work:
    """The samples of one request.

    Args:
        samples: in the order in which they are begun.
        fail: is told why the rest of the request is not made.
        seconds: after which it has taken too long.
    """

    def __init__(self, samples: Sequence[Sample], fail: Callable[[Exception], None], seconds: float) -> None:
        self.waiting, self.rows, self._fail = deque(samples), 0, fail
        self.over = False  # nobody waits for it any more; set from any thread, heard at the next token
        self.seconds, self.deadline = seconds, time.monotonic() + seconds

    def end(self) -> None:
        """Make no more of it."""
        self.over = True

    def fail(self, error: Exception) -> None:
        """Make no more of it, and say why."""
        if not self.over:
            self.over = True
            self._fail(error)


class TimeLimitError(UserError):
    """A request took longer than it may."""


@dataclass
class Row:
    """A row of the model in use.

    Attributes:
        left: ids that are not read yet.
        leader: the row that reads the same prompt, whose text this one copies.
        token: what it goes on with; None while it reads.
    """

    number: int
    work: Work
    sample: Sample
    left: list[int]
    leader: "Row | None" = None
    token: int | None = None


class Batcher:
    """Runs a model in a thread of its own.

    Args:
        rows: the model; it is closed when the batcher is.
        count: how many of its rows are used.
        most_waiting: requests that wait while all rows are taken; more are refused.
        drawn: is told how many tokens were drawn, and how many read.
    """

    def __init__(
        self, rows: Rows, count: int, most_waiting: int, counted: Callable[[int, int], None] = lambda drawn, read: None
    ) -> None:
        self._model, self.count, self.most_waiting, self._counted = rows, min(count, rows.rows), most_waiting, counted
        self._works: list[Work] = []  # those with samples that have no row yet
        self._rows: list[Row] = []
        self._free = [*range(self.count)]
        self._closing, self._change = False, threading.Condition()
        self._thread = threading.Thread(target=self._run, name="yinggem-batcher", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> int:
        """Rows in use."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Requests of which something has no row yet."""
        return len(self._works)

    def submit(self, work: Work) -> None:
        """Make these samples.

        Raises:
            FullError: too many requests wait.
            ClosedError: it takes no more.
        """
        with self._change:
            if self._closing:
                raise ClosedError
            if len(self._works) >= self.most_waiting + len(self._free):
                raise FullError(f"{len(self._works)} requests wait already; try again in a moment.")
            self._works.append(work)
            self._change.notify()

    def close(self, wait: bool = False) -> None:
        """Take no more, end when all is done, and free the model."""
        with self._change:
            self._closing = True
            self._change.notify()
        if wait:
            self._thread.join()

    def _run(self) -> None:
        while self._admit():
            self._read()
            self._step()
        self._model.close()

    def _admit(self) -> bool:
        """Give free rows to samples that wait, once there is anything to do; False when it is closed and done."""
        with self._change:
            while not (self._works or self._rows or self._closing):
                self._change.wait()
            self._drop_ended()
            while self._free and self._works:
                self._begin(min(self._works, key=lambda work: work.rows))  # the first of those with the fewest rows
            return bool(self._works or self._rows or not self._closing)

    def _drop_ended(self) -> None:
        now = time.monotonic()
        for work in [*self._works, *(row.work for row in self._rows)]:
            if not work.over and now > work.deadline:
                work.fail(TimeLimitError(f"The request took longer than {work.seconds:g} s; ask for less at once."))
        self._works = [work for work in self._works if not work.over]
        for row in [row for row in self._rows if row.work.over]:
            self._release(row)

    def _begin(self, work: Work) -> None:
        sample, number = work.waiting.popleft(), self._free.pop()
        ids = sample.to_read
        leader = next((row for row in self._rows if row.left and row.sample.prompt is sample.prompt), None)
        self._rows.append(Row(number, work, sample, [*ids], leader and (leader.leader or leader)))
        work.rows += 1
        if not work.waiting:
            self._works.remove(work)

    def _release(self, row: Row) -> None:
        self._rows.remove(row)
        self._free.append(row.number)
        row.work.rows -= 1

    def _read(self) -> None:
        """Read some of the prompts, a block in all; they take turns."""
        budget = BLOCK
        for row in [row for row in self._rows if row.left and row.leader is None]:
            if budget <= 0:
                return
            if row.work.over:
                continue
            part, row.left = row.left[:budget], row.left[budget:]
            budget -= len(part)
            self._rows.remove(row)
            self._rows.append(row)  # the others come first the next time
            try:
                if len(part) == len(row.sample.to_read) - len(row.left):
                    self._model.reset(row.number)
                logits = self._model.read(row.number, part)
                self._counted(0, len(part))
                if not row.left:
                    self._go_on(row, logits)
            except Exception as error:
                row.work.fail(error)

    def _go_on(self, leader: Row, logits: np.ndarray) -> None:
        """All rows with this prompt, which is read, draw their first token."""
        followers = [row for row in self._rows if row.leader is leader and not row.work.over]
        for row in followers:
            self._model.copy(leader.number, row.number)
            row.leader, row.left = None, []
        for row in (leader, *followers):
            self._take(row, logits)

    def _step(self) -> None:
        rows = [row for row in self._rows if row.token is not None and not row.work.over]
        if not rows:
            return
        try:
            logits = self._model.step([row.number for row in rows], [row.token or 0 for row in rows])
        except Exception as error:  # of the model, and so of all
            for row in rows:
                row.work.fail(error)
            return
        for row, one in zip(rows, logits, strict=True):
            self._take(row, one)

    def _take(self, row: Row, logits: np.ndarray) -> None:
        """Let a row's sample draw, and end it where it has ended."""
        before = row.sample.drawn
        with self._change:  # whoever reads the end of this text, and asks again, finds its row free
            try:
                row.token = row.sample.take(logits)
            except Exception as error:
                row.work.fail(error)
                return
            if row.token is None:
                self._release(row)
        drawn = row.sample.drawn - before
        self._counted(drawn, 1 - drawn if row.token is not None else 0)
