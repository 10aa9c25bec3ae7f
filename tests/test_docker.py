"""The real image and its cluster, by the commands of docker/README.md as a stranger types them."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from browser import open_browser, open_page
from cluster_sweeps import started
from live_sweeps import ALONE, ENDLESS, FIXED, ROOT, evaluated, events, run, wait_for
from own_docker import BRIDGE, PORT, Docker, own_docker
from playwright.sync_api import expect
from test_mlflow_browser import MLFLOWS_OWN, TRIAL

from sweep.record.results import SweepRecord
from sweep.tracking.view import run_name

pytestmark = pytest.mark.docker

README = (ROOT / "docker" / "README.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall("^```bash\n(.*?)\n```", README, re.M | re.S)]
MAKE_SECRETS, UP, LOGS = BLOCKS[0]
IMAGE_ALONE, ITS_REPORT = BLOCKS[1]
ROWS = re.findall("^\\| `(.+?)` \\|", README, re.M)
ANOTHER, _, REPORT, BEST, STOP, _, DOWN = ROWS
COMPOSE = "docker compose --file docker/compose.yaml"
BUILD = "docker build --file docker/Dockerfile --tag lm-sweep"
SETTLED = " ".join((*FIXED, *ALONE))
COMPILED = """
import importlib.util, pathlib
names = ("ray", "torch", "mlflow", "pydantic", "sweep")
print([name for name in names if not pathlib.Path(importlib.util.find_spec(name).cached).is_file()])
"""
FEW = "--num-samples 8"
"""The default sweep of 32 is some ten minutes longer; SWEEP is README's way to another one."""
PAGE = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=60).read().decode())"
RUNS = """
SELECT runs.run_uuid, runs.status, trial.value, parent.value, min(metrics.value) FROM runs
JOIN tags sweep ON sweep.run_uuid = runs.run_uuid AND sweep.key = 'sweep.name'
LEFT JOIN tags trial ON trial.run_uuid = runs.run_uuid AND trial.key = 'sweep.trial'
LEFT JOIN tags parent ON parent.run_uuid = runs.run_uuid AND parent.key = 'mlflow.parentRunId'
LEFT JOIN metrics ON metrics.run_uuid = runs.run_uuid AND metrics.key = 'val_loss'
WHERE sweep.value = '{name}' GROUP BY 1, 2, 3, 4
"""


@pytest.fixture(scope="module")
def docker():
    """A daemon that has built the image without a registry, an index or any other network."""
    with own_docker() as docker:
        assert f"#   {BUILD} ." in (ROOT / "docker" / "Dockerfile").read_text().splitlines()
        docker.run("docker volume ls --quiet | xargs --no-run-if-empty docker volume rm")
        settings = " ".join(f"--build-arg {name}" for name in docker.pip)
        docker.run(f"{BUILD} {settings} .", 3600)
        yield docker


@pytest.fixture(scope="module")
def alone(docker):
    """The record of a sweep by the image alone, one trial at a time."""
    docker.run(f"{IMAGE_ALONE} {SETTLED} --name settled", 900)
    return SweepRecord.read(docker.volume("lm-sweep-alone") / "results" / "settled")


@pytest.fixture(scope="module")
def shown(docker):
    """What the three commands have shown once their sweep has ended."""
    docker.run(MAKE_SECRETS)
    docker.run(UP, 3600, SWEEP=FEW)
    return docker.run(LOGS, 1800)


@pytest.fixture(scope="module")
def endless(docker, shown):
    """The folder of a sweep that runs in the same cluster until it is stopped."""
    docker.run(UP, 600, SWEEP=f"--config smoke.yaml --name endless {' '.join(ENDLESS)}")
    folder = in_cluster(docker, "endless")
    wait_for(lambda: evaluated(folder, 500))
    return folder


def in_cluster(docker: Docker, name: str) -> Path:
    """Return the folder of the cluster's sweep."""
    return docker.volume("lm-sweep_work") / "results" / name


def in_postgres(docker: Docker, name: str) -> dict[str, tuple[str, str, str, str]]:
    """Return number, status, parent and smallest loss of each trial's run, "" for the sweep's."""
    query = shlex.quote(RUNS.format(name=name))
    psql = "psql --username mlflow --no-align --tuples-only --command"
    rows = docker.run(f"{COMPOSE} exec postgres {psql} {query}").splitlines()
    found = {}
    for run_id, status, trial, parent, loss in (row.split("|") for row in rows):
        assert trial not in found, f"the run of {trial or 'the sweep'} is doubled"
        found[trial] = run_id, status, parent, loss
    return found


def same(one: SweepRecord, other: SweepRecord) -> None:
    trials, others = (
        {name: (t.params, t.outcome, t.best_val_loss) for name, t in record.trials.items()}
        for record in (one, other)
    )
    assert trials == others
    assert one.best.params == other.best.params


def test_the_image_is_below_its_size_and_holds_what_starts_it_fast(docker):
    size = int(docker.run("docker image inspect --format '{{.Size}}' lm-sweep"))
    assert size < 1_800_000_000, f"{size / 1e9:.2f} GB"
    assert docker.run("docker run --rm lm-sweep id -u").strip() == "10001"
    without = docker.run(f"docker run --rm lm-sweep python -c '{COMPILED}'")
    assert without.strip() == "[]", "each start would compile these"


def test_the_image_alone_sweeps_without_network_or_rights(docker):
    output = docker.run(IMAGE_ALONE, 900)
    assert "\nbest: " in output
    assert events(docker.volume("lm-sweep-alone") / "results" / "sweep-001")[-1]["completed"]
    docker.run(ITS_REPORT)
    assert "sweep-001" in (docker.project / "report.html").read_text()


def test_a_sweep_in_a_container_is_the_one_outside(docker, alone, tmp_path):
    """On the same text: that of a Python is its own."""
    shutil.copytree(docker.volume("lm-sweep-alone") / "data", tmp_path / "data")
    flags = ("--config", "smoke.yaml", *FIXED, *ALONE, "--name", "outside")
    outside = run(tmp_path, "sweep/run.py", *flags)
    assert outside.returncode == 0, outside.stderr
    same(SweepRecord.read(tmp_path / "results" / "outside"), alone)


def test_three_commands_end_with_a_leaderboard(docker, shown):
    assert re.search(r"sweep-1 +\| best: t\d{3} ", shown)
    assert events(in_cluster(docker, "sweep-001"))[-1]["completed"]


def test_its_trials_ran_on_both_workers(docker, shown):
    address = "'{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'"
    workers = docker.run(f"{COMPOSE} ps --quiet worker | xargs docker inspect --format {address}")
    nodes = started(in_cluster(docker, "sweep-001")).values()
    assert len(set(nodes)) == 2
    assert set(nodes) == set(workers.split())


def test_its_runs_are_in_postgres(docker, shown):
    record, runs = (
        SweepRecord.read(in_cluster(docker, "sweep-001")),
        in_postgres(docker, "sweep-001"),
    )
    whole, status, parent, _ = runs.pop("")
    assert (status, parent) == ("FINISHED", "")
    assert len(runs) == 8
    assert {(status, parent) for _, status, parent, _ in runs.values()} == {("FINISHED", whole)}
    losses = {trial: float(loss) for trial, (*_, loss) in runs.items()}
    assert losses == {trial.name: trial.best_val_loss for trial in record.trials.values()}
    assert list(docker.volume("lm-sweep_artifacts").rglob(f"{whole}/artifacts/**/report.html"))


def test_its_addresses_show_it_in_a_browser(docker, shown):
    printed = re.findall(r"http://localhost:5000/#\S+", shown)
    trials = SweepRecord.read(in_cluster(docker, "sweep-001")).ranked
    with open_browser(docker.within()) as browser, open_page(browser, *MLFLOWS_OWN) as page:
        expect.set_options(timeout=60_000)
        page.goto(printed[0])
        names = page.get_by_role("link", name=TRIAL)
        expect(names).to_have_count(len(trials))
        assert names.all_inner_texts() == [run_name(trial) for trial in trials]


def test_nothing_but_mlflows_page_is_published(docker, shown):
    listening = docker.run("ss --no-header --listening --tcp --udp --numeric").splitlines()
    here = {"127.0.0.1:5000"}
    assert {line.split()[4] for line in listening} - {f"{BRIDGE}:{PORT}"} == here
    page = docker.run(shlex.join([sys.executable, "-c", PAGE, "http://localhost:5000"]))
    assert "<title>MLflow" in page


def test_report_and_best_model_come_out(docker, shown):
    docker.run(REPORT)
    assert "sweep-001" in (docker.project / "report.html").read_text()
    assert docker.run(BEST, 300)


def test_another_sweep_on_the_cluster_is_the_one_of_the_image_alone(docker, alone, shown):
    docker.run(f"{ANOTHER} {SETTLED} --name settled", 900)
    same(SweepRecord.read(in_cluster(docker, "settled")), alone)
    assert {status for _, status, *_ in in_postgres(docker, "settled").values()} == {"FINISHED"}


def test_every_container_is_confined(docker, endless):
    containers = docker.run(f"{COMPOSE} ps --quiet").split()
    assert len(containers) == 6
    for container in containers:
        told = docker.run(f"docker exec {container} cat /proc/1/status /proc/self/mounts")
        assert set("".join(re.findall(r"^Cap\w+:\s*(\w+)$", told, re.M))) == {"0"}
        assert re.search(r"^NoNewPrivs:\s*1$", told, re.M)
        assert re.search(r"^Uid:\s*(10001|999)\s", told, re.M)
        assert re.search(r"^\S+ / \S+ ro,", told, re.M)


def test_a_stopped_sweep_is_saved(docker, endless):
    docker.run(STOP)
    status = "docker inspect --format '{{.State.ExitCode}}' lm-sweep-sweep-1"
    assert docker.run(status).strip() == "143"
    assert events(endless)[-1]["event"] == "session_ended"
    trials = SweepRecord.read(endless).trials.values()
    assert {trial.outcome for trial in trials} == {"interrupted"}
    runs = in_postgres(docker, "endless")
    assert len(runs) == len(trials) + 1
    assert {status for _, status, *_ in runs.values()} == {"KILLED"}


def test_down_leaves_nothing(docker, shown):
    """The last test: what the others look at is gone after it."""
    docker.run(f"{DOWN} --volumes")
    assert "`--volumes` also deletes all results and runs" in README
    label = "--quiet --filter label=com.docker.compose.project=lm-sweep"
    for kind in ("container ls --all", "volume ls", "network ls"):
        assert docker.run(f"docker {kind} {label}") == ""
