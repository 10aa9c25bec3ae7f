"""What each worker did when, as the record tells it: training, evaluation, and nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sweep.record.lines import Event

Doing = Literal["training", "evaluation", "waiting"]


@dataclass(frozen=True)
class Span:
    """A stretch of a worker's time, Unix seconds."""

    worker: str
    """host:process."""
    trial: str
    doing: Doing
    begin: float
    end: float
    step: int
    """The trial's last step in it."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


@dataclass
class _Place:
    """Where a running trial is."""

    since: float
    worker: str | None = None
    trained: float = 0.0
    """Seconds of training that it had told of, over all sessions."""


def worker_spans(events: Iterable[Event]) -> list[Span]:
    """Return what the workers did, in the order of the record.

    Between two evaluations a trial trains for as long as it says; the rest is the evaluation and
    what lies around it: the report, the search's word, a save that is waited for. From its start to
    its first evaluation it is set up, and evaluated. Behind its last evaluation it waits for its
    end. Nothing is known of trials recorded without a worker, by an older version.
    """
    running: dict[str, _Place] = {}
    told: dict[str, float] = {}
    spans: list[Span] = []
    for event in events:
        kind, now = event["event"], event["time"]
        if kind == "trial_started":
            running[event["trial"]] = _Place(now, trained=told.get(event["trial"], 0.0))
        elif kind == "evaluation" and (place := running.get(event["trial"])):
            metrics, trial = event["metrics"], event["trial"]
            place.worker = event.get("worker", place.worker)
            seconds = metrics.get("seconds", place.trained)
            trained = min(max(0.0, seconds - place.trained), max(0.0, now - place.since))
            told[trial] = place.trained = seconds
            if place.worker is not None:
                step = int(metrics["step"])
                middle = place.since + trained
                spans.append(Span(place.worker, trial, "training", place.since, middle, step))
                spans.append(Span(place.worker, trial, "evaluation", middle, now, step))
            place.since = now
        elif kind == "outcome" and (place := running.pop(event["trial"], None)):
            if place.worker is not None and now > place.since:
                last = Span(
                    place.worker, event["trial"], "waiting", place.since, now, event["step"]
                )
                spans.append(last)
        elif kind == "session_ended":
            running.clear()
    return [span for span in spans if span.seconds > 0]
