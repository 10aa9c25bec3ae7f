"""The loop in a thread of its own: a trial trains on while its last evaluation is dealt with.

Between two calls of Tune lie a report, a save, the search's decision and several messages. In the
meantime the trial trains, one evaluation ahead at most. What is saved is a copy in memory, made
when its evaluation is asked for: who lets go of one before asking for the next holds one at a
time. A trial that is stopped has trained some steps in vain; nobody sees them.
"""

import queue
import threading

from trainable.checkpoint.folder import Snapshot
from trainable.training.evaluation import Evaluation
from trainable.training.trainer import StoppedError, Trainer


class Ahead:
    """Yields a trainer's evaluations, each with the state that it was made of."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._ready: queue.SimpleQueue[tuple[Evaluation, Snapshot] | BaseException] = (
            queue.SimpleQueue()
        )
        self._wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._train, name="training", daemon=True)
        self._thread.start()

    def next(self) -> tuple[Evaluation, Snapshot]:
        """Wait for the next evaluation; training then goes on to the one after it.

        Raises:
            Exception: what Trainer.run raises; StopIteration after the last step.
        """
        self._wanted.put(True)
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """End the thread, before its next step."""
        self._trainer.stop()
        self._wanted.put(False)
        self._thread.join()

    def _train(self) -> None:
        try:
            for evaluation in self._trainer.run():
                if not self._wanted.get():
                    return
                self._ready.put((evaluation, self._trainer.snapshot()))
            self._ready.put(StopIteration())
        except StoppedError:
            pass
        except BaseException as error:  # raised again where the evaluation is waited for
            self._ready.put(error)
