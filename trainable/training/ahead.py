"""The loop in a thread of its own: a trial trains on while its last evaluation is dealt with.

Between two calls of Tune lie a report, a save, the search's decision and several messages. In the
meantime the trial trains, one evaluation ahead at most. What is saved is a copy in memory: training
waits for that copy alone. A trial that is stopped has trained some steps in vain; nobody sees them.
"""

import queue
import threading

from trainable.checkpoint.folder import Snapshot
from trainable.training.trainer import Evaluation, StoppedError, Trainer


class Ahead:
    """Yields a trainer's evaluations, each with the state that it was made of."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._ready: queue.SimpleQueue[tuple[Evaluation, Snapshot] | BaseException] = (
            queue.SimpleQueue()
        )
        self._taken = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._train, name="training", daemon=True)
        self._thread.start()

    def next(self) -> tuple[Evaluation, Snapshot]:
        """Wait for the next evaluation; the one after it is then begun.

        Raises:
            Exception: what Trainer.run raises; StopIteration after the last step.
        """
        item = self._ready.get()
        self._taken.release()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """End the thread, before its next step."""
        self._trainer.stop()
        self._taken.release()
        self._thread.join()

    def _train(self) -> None:
        try:
            for evaluation in self._trainer.run():
                self._ready.put((evaluation, self._trainer.snapshot()))
                self._taken.acquire()
            self._ready.put(StopIteration())
        except StoppedError:
            pass
        except BaseException as error:  # raised again where the evaluation is waited for
            self._ready.put(error)
