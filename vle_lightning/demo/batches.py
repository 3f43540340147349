"""Requests of several visitors that meet, answered as one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class Batcher(Generic[RequestT, ResultT]):
    """Collects the requests of waiting threads; the thread whose turn it is answers for all of them.

    There is no thread of its own: while one batch is computed, requests gather for the next.
    """

    def __init__(self, answer: Callable[[Sequence[RequestT]], Sequence[ResultT]], most: int, turn: Lock) -> None:
        """Make an empty queue.

        Args:
            answer: gives one result for each request.
            most: requests of a batch.
            turn: held during a computation; batchers of one model share it.
        """
        self.answer, self.most, self.turn = answer, most, turn
        self.waiting: deque[tuple[RequestT, Future[ResultT]]] = deque()
        self.sizes: deque[int] = deque(maxlen=1000)  # of the last batches

    def __call__(self, request: RequestT) -> ResultT:
        """Return the result of a request; raises what answering it alone raises."""
        own: Future[ResultT] = Future()
        self.waiting.append((request, own))
        with self.turn:
            while not own.done():
                self._answer_next()
        return own.result()

    def _answer_next(self) -> None:
        batch = [self.waiting.popleft() for _ in range(min(self.most, len(self.waiting)))]
        self.sizes.append(len(batch))
        try:
            results = self.answer([request for request, _ in batch])
        except Exception:  # one bad request must not fail the others of its batch: each is answered alone
            for request, future in batch:
                self._answer_alone(request, future)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)

    def _answer_alone(self, request: RequestT, future: Future[ResultT]) -> None:
        try:
            future.set_result(self.answer([request])[0])
        except Exception as error:  # raised again in the thread of the request
            future.set_exception(error)
