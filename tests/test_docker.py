"""The real image, built and run by the commands of docker/README.md as a stranger types them."""

import re
import shutil

import pytest
from live_sweeps import ALONE, FIXED, ROOT, events, run
from own_docker import own_docker

from sweep.record.results import SweepRecord

pytestmark = pytest.mark.docker

README = (ROOT / "docker" / "README.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall("^```bash\n(.*?)\n```", README, re.M | re.S)]
IMAGE_ALONE, ITS_REPORT = BLOCKS[1]
BUILD = "docker build --file docker/Dockerfile --tag lm-sweep"
SETTLED = " ".join((*FIXED, *ALONE))
COMPILED = """
import importlib.util, pathlib
names = ("ray", "torch", "mlflow", "pydantic", "sweep")
print([name for name in names if not pathlib.Path(importlib.util.find_spec(name).cached).is_file()])
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
