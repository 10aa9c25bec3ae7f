"""Training goes on while an evaluation is reported and saved: same numbers, one step ahead."""

import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeConfig
from test_trainer import assert_same_state, results

from trainable.checkpoint.folder import Snapshot, copied
from trainable.common.errors import DivergedError
from trainable.training.ahead import Ahead
from trainable.training.trainer import Trainer


def wait_until(true: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("values", [{}, {"model.tie_embeddings": True, "train.threads": 2}])
def test_it_trains_as_the_plain_loop_does(
    tiny_config: MakeConfig, tmp_path: Path, values: dict[str, Any]
) -> None:
    plain, trainer = Trainer(tiny_config(values)), Trainer(tiny_config(values))
    ahead = Ahead(trainer)
    for expected in plain.run():
        evaluation, snapshot = ahead.next()
        assert results(evaluation) == results(expected)
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        manifest, saved = snapshot.save(ours), plain.save(theirs)
        difference = abs(manifest.state_bytes - saved.state_bytes)
        assert difference < 1_000, "tied weights are saved once"
        again = Trainer(tiny_config(values))
        again.load(ours)
        assert_same_state(again, plain)
    with pytest.raises(StopIteration):
        ahead.next()
    ahead.close()


def test_it_trains_on_to_the_next_evaluation_and_no_further(tiny_config: MakeConfig) -> None:
    trainer = Trainer(tiny_config())
    ahead = Ahead(trainer)
    for step in (0, 5):
        assert ahead.next()[0].step == step
    wait_until(lambda: trainer.iteration == 10)  # though nobody asks
    time.sleep(0.2)
    assert trainer.iteration == 10
    ahead.close()


def test_a_snapshot_keeps_its_step_while_training_goes_on(tiny_config: MakeConfig) -> None:
    trainer = Trainer(tiny_config())
    ahead = Ahead(trainer)
    ahead.next()
    _, snapshot = ahead.next()
    before = copied(snapshot.state)
    wait_until(lambda: trainer.iteration == 10)
    for name, value in before["model"].items():
        assert torch.equal(value, snapshot.state["model"][name]), name
    assert snapshot.state["iteration"] == snapshot.facts["iteration"] == 5
    ahead.close()


def test_memory_holds_one_snapshot_at_a_time(tiny_config: MakeConfig) -> None:
    trainer = Trainer(tiny_config())
    ahead = Ahead(trainer)
    _, first = ahead.next()
    _, held = ahead.next()
    del first
    last = trainer.val_loss
    wait_until(lambda: trainer.val_loss != last)  # the evaluation ahead is made
    time.sleep(0.1)
    gc.collect()
    assert [o for o in gc.get_objects() if type(o) is Snapshot] == [held]
    del held
    assert ahead.next()[1].facts["iteration"] == 10
    ahead.close()


def test_it_ends_between_two_steps_when_closed(tiny_config: MakeConfig) -> None:
    trainer = Trainer(tiny_config({"train.steps": 10**6, "train.eval_every": 10**6}))
    before = threading.active_count()
    ahead = Ahead(trainer)
    ahead.next()
    wait_until(lambda: trainer.iteration > 3)
    ahead.close()
    reached = trainer.iteration
    assert threading.active_count() == before
    time.sleep(0.1)
    assert trainer.iteration == reached < 10**6


def test_it_may_be_closed_before_anything_was_asked_for(tiny_config: MakeConfig) -> None:
    before = threading.active_count()
    Ahead(Trainer(tiny_config())).close()
    assert threading.active_count() == before


def test_what_goes_wrong_is_raised_where_it_is_waited_for(tiny_config: MakeConfig) -> None:
    trainer = Trainer(tiny_config())
    ahead = Ahead(trainer)
    ahead.next()
    with torch.no_grad():
        trainer.model.head.weight.fill_(float("nan"))

    def train_on() -> None:
        while True:
            ahead.next()

    with pytest.raises(DivergedError):
        train_on()
    ahead.close()
