"""Sweeps on a cluster that grows for them, and shrinks after them, by Ray's own autoscaler."""

import signal

import pytest
from autoscaled_nodes import autoscaled_nodes
from cluster_sweeps import start_on, started
from live_sweeps import ALONE, ENDLESS, FIXED, UNTRACKED, evaluated, events, wait_for

from sweep.cluster.feasible import parts_to_ask_for

LONG = (*FIXED, *UNTRACKED, "--trial.train.steps", "5000", "--trial.train.eval-every", "1000")
LONG += ("--asha.no-enabled", "--num-samples", "6")


@pytest.fixture(params=[False, True], ids=["first version", "second version"])
def nodes(request):
    """A head of one CPU, whose autoscaler of either version adds two nodes at most."""
    with autoscaled_nodes(3, second=request.param) as three:
        yield three


@pytest.mark.slow
def test_nodes_come_for_a_sweep_and_leave_as_it_ends(nodes, start, tmp_path):
    """It could use more than there may be: as many come as may. The last trial needs but one."""
    folder = tmp_path / "results" / "grown"
    sweep = start_on(nodes, start, tmp_path, "grown", *LONG)
    wait_for(lambda: len(started(folder)) == 6)
    wait_for(lambda: nodes.alive() < 3, 120)
    assert sum(event["event"] == "outcome" for event in events(folder)) < 6
    out, err = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, err + out
    assert set(started(folder).values()) == {nodes.ip(number) for number in range(3)}
    wait_for(lambda: nodes.alive() == 1, 60)


@pytest.mark.slow
@pytest.mark.fault
def test_each_sweep_has_its_room_as_long_as_its_driver_lives(nodes, start, tmp_path):
    """The second version may keep either node for the one trial that is left."""
    one = start_on(nodes, start, tmp_path / "one", "one", *ENDLESS, *UNTRACKED, *ALONE)
    wait_for(lambda: evaluated(tmp_path / "one" / "results" / "one", 500))
    two = ("two", *ENDLESS, *UNTRACKED, "--max-concurrent", "2")
    killed = start_on(nodes, start, tmp_path / "two", *two)
    wait_for(lambda: len(started(tmp_path / "two" / "results" / "two")) == 2, 120)
    assert nodes.alive() == 3
    killed.send_signal(signal.SIGKILL)
    wait_for(lambda: nodes.alive() < 3, 60)
    one.send_signal(signal.SIGINT)
    assert one.wait(60) == 130
    wait_for(lambda: nodes.alive() == 1, 60)


@pytest.mark.parametrize("large", range(4))
@pytest.mark.parametrize("small", range(6))
def test_as_much_is_asked_for_as_can_be_met(large: int, small: int) -> None:
    """Of the larger kind first; an autoscaler that takes everything or nothing is asked."""
    wanted = [{"CPU": 4.0}] * 3 + [{"CPU": 1.0}] * 5
    parts = parts_to_ask_for(wanted)
    asked = next(parts)
    assert asked == wanted
    for _ in range(20):
        fits = asked.count({"CPU": 4.0}) <= large and asked.count({"CPU": 1.0}) <= small
        try:
            asked = parts.send(fits)
        except StopIteration:
            break
    assert asked == [{"CPU": 4.0}] * large + [{"CPU": 1.0}] * small


def test_of_one_kind_few_questions_are_enough() -> None:
    parts = parts_to_ask_for([{"CPU": 1.0}] * 32)
    asked, questions = next(parts), 1
    while True:
        try:
            asked = parts.send(len(asked) <= 5)
        except StopIteration:
            break
        questions += 1
    assert (len(asked), questions) == (5, 7)
