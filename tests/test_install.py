"""The package from a wheel, and the commands from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_main_job_runs_from_an_installed_wheel(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels, site, work = tmp_path / "wheels", tmp_path / "site", tmp_path / "work"
    work.mkdir()
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(wheels), str(ROOT)], check=True)
    (wheel,) = wheels.glob("lm_sweep-*.whl")
    install = ["install", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([*pip, *install], check=True)
    env = {k: v for k, v in os.environ.items() if k not in ("LM_SWEEP_HOME", "MLFLOW_TRACKING_URI")}
    env |= {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(module, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=work,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import sweep; print(sweep.__file__)"]
    found = subprocess.run(where, cwd=work, env=env, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(site))
    output = run("sweep.run", "--config", "smoke.yaml", "--num-samples", "2", "--name", "wheel")
    assert "prepared data/python-stdlib" in output
    assert (work / "results/wheel/sweep.json").is_file()
    assert (work / "mlflow.db").is_file()
    assert (work / "data/python-stdlib/train.npy").is_file()
    assert "the same to the last bit" in run("sweep.best", "wheel")
    assert run("trainable.generate", "results/wheel/best").startswith("def ")
