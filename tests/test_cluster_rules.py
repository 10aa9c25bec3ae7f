"""What a cluster's nodes must be alike in, and how many trials they hold: rules, without Ray."""

import dataclasses

import pytest
from sweep_samples import sweep_config

from sweep.cluster.address import named_address, require_cluster
from sweep.cluster.admission import marked, own_facts, probe_node
from sweep.cluster.packing import Machine
from sweep.cluster.placement import Room
from sweep.cluster.waiting import Waiting
from sweep.common.errors import SweepError
from sweep.config.parts import parts_of
from sweep.config.resources import Share
from trainable.data.batches import open_dataset


@pytest.mark.parametrize(
    ("settings", "machines", "trials"),
    [
        ({}, [Machine(2, 0), Machine(3, 0)], 5),
        ({"cpus_per_trial": 2}, [Machine(3, 0), Machine(3, 0)], 2),  # not three, as the sum of six
        ({"cpus_per_trial": 0.5}, [Machine(1, 0), Machine(2, 0)], 6),
        ({"gpus_per_trial": 1}, [Machine(8, 1), Machine(8, 0), Machine(1, 2)], 2),
        ({"gpus_per_trial": 0.25}, [Machine(8, 1), Machine(2, 1)], 6),
        ({"max_concurrent": 3}, [Machine(8, 0)], 3),
        ({"num_samples": 2}, [Machine(8, 0)], 2),
        ({}, [Machine(0, 0)], 1),  # all is in use: one trial waits
        ({}, [], 1),
    ],
)
def test_trials_are_counted_by_whole_nodes(settings, machines, trials):
    room = Room(sweep_config(**settings))
    assert room.most(machines) == trials
    fits = room.fits(machines)
    running = [Share(1, 0)] * (trials - 1)
    assert fits(running, Share(1, 0))
    assert not fits([*running, Share(1, 0)], Share(1, 0))


def test_what_no_node_is_large_enough_for_is_told_once_until_there_is_one():
    large, others = parts_of(sweep_config(resources={"model.d_model >= 64": {"cpus": 2}}))
    waiting = Waiting()
    assert waiting.news([], "a: 2 CPU, 0 GPU") == []
    assert waiting.news([large], "a: 1 CPU, 0 GPU") == [
        "no node is left with the 2 CPU and 0 GPU that trials with model.d_model >= 64 take each "
        "(a: 1 CPU, 0 GPU): they wait, and those behind them, until one joins"
    ]
    assert waiting.news([large], "a: 1 CPU, 0 GPU") == []
    (told,) = waiting.news([large, others], "none")
    assert told.startswith("no node is left with the 1 CPU and 0 GPU that all other trials take ")
    (told,) = waiting.news([large], "b: 1 CPU, 0 GPU")
    assert told == "all other trials go on: a node with 1 CPU and 0 GPU has joined"
    (told,) = waiting.news([], "c: 2 CPU, 0 GPU")
    assert told.startswith("trials with model.d_model >= 64 go on: ")
    assert len(waiting.news([large], "none")) == 1


def test_a_node_is_compared_in_all_that_decides_numbers(tiny_config, tmp_path):
    trial = tiny_config()
    driver = own_facts(open_dataset(trial.data, trial.model.context_length).digest)
    with marked(str(tmp_path / "results")) as mark:
        same = probe_node(trial, str(tmp_path / "results"), mark)
        assert same == driver
        assert same.differs_from(driver) == []
        elsewhere = probe_node(trial, str(tmp_path / "other"), mark)
        moved = tiny_config({"data.dataset": str(tmp_path)})
        without = probe_node(moved, str(tmp_path / "results"), mark)
    assert list((tmp_path / "results").iterdir()) == []
    (trouble,) = elsewhere.differs_from(driver)
    assert trouble == f"{tmp_path / 'other'} is not the driver's folder"
    (trouble,) = without.differs_from(driver)
    assert trouble.startswith("the dataset is not readable (")
    for name in driver.alike:
        other = dataclasses.replace(driver, alike=driver.alike | {name: "another"})
        (told,) = other.differs_from(driver)
        assert told == f"{name} is another, on the driver {driver.alike[name]}"


def test_the_address_is_the_flag_then_the_variable_then_none(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert named_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert named_address(None) == "head:6379"
    assert named_address("auto") == "auto"
    assert named_address("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert named_address(None) is None


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:0", "ray://head:10001", "a:b"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(SweepError, match="must be HOST:PORT, auto or local"):
        require_cluster(address)


def test_nobody_at_an_address_is_told():
    with pytest.raises(SweepError, match=r"--ray-address 127.0.0.1:1: nobody answers there"):
        require_cluster("127.0.0.1:1")
