"""The example runs cell by cell in a real Jupyter kernel, and a sweep there can be interrupted."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from live_sweeps import ROOT, evaluated, make_project, wait_for

from sweep import load_sweep

ENDLESS = {
    "trial.train.steps": 10**6,
    "trial.train.eval_every": 500,
    "trial.train": {"precision": "fp32", "attention": "products", "compile": "never"},
    "asha.enabled": False,
    "tracking.enabled": False,
}
EXAMPLE = ROOT / "examples" / "sweep_in_python.py"


@pytest.fixture
def kernel(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A kernel's manager and client, in a folder whose smoke.yaml is smaller than the shipped."""
    from jupyter_client.manager import KernelManager

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "cwd").mkdir()
    shutil.copy(make_project(project), tmp_path / "cwd" / "smoke.yaml")
    manager = KernelManager()
    launch = ("-m", "ipykernel_launcher", "-f", "{connection_file}")
    manager.kernel_spec.argv = [sys.executable, *launch]
    manager.start_kernel(cwd=str(tmp_path / "cwd"))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run_cell(client, code: str, begun=lambda: None) -> tuple[str, str | None]:
    """Run a cell; return what it printed, and the name of the exception that ended it."""
    printed: list[str] = []
    asked = client.execute(code)
    begun()
    while True:
        message = client.get_iopub_msg(timeout=240)
        if message["parent_header"].get("msg_id") != asked:
            continue
        content = message["content"]
        if message["msg_type"] == "stream":
            printed.append(content["text"])
        elif message["msg_type"] == "status" and content["execution_state"] == "idle":
            break
    while True:  # the wait for the kernel may have left replies
        reply = client.get_shell_msg(timeout=60)
        if reply["parent_header"].get("msg_id") == asked:
            return "".join(printed), reply["content"].get("ename")


@pytest.mark.slow
def test_the_example_in_a_notebook_and_an_interrupt(kernel, project: Path) -> None:
    manager, client = kernel
    text = EXAMPLE.read_text(encoding="utf-8")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    cells = [cell for cell in cells if cell and not cell.startswith(" [markdown]")]
    assert len(cells) > 4
    shown = [run_cell(client, "#" + cell) for cell in cells]
    assert [error for _, error in shown] == [None] * len(cells)
    printed = "".join(output for output, _ in shown)
    assert "sweep-001: " in shown[0][0]
    assert "best: t00" in shown[0][0]
    assert "<Sweep sweep-001: 4/4 trials ended, best " in printed
    assert "def " in printed
    assert (project / "results/sweep-001/study.db").is_file()

    def interrupt() -> None:
        wait_for(lambda: evaluated(project / "results" / "endless", 500))
        manager.interrupt_kernel()

    endless = (
        "import signal; handlers = signal.getsignal(2), signal.getsignal(15)\n"
        f"run_sweep('smoke.yaml', name='endless', max_concurrent=1, **{ENDLESS!r})"
    )
    printed, error = run_cell(client, endless, interrupt)
    assert error == "KeyboardInterrupt"
    assert "interrupted: 1 interrupted" in printed
    assert list(load_sweep("endless").trials["outcome"]) == ["interrupted"]
    check = "print(load_sweep('endless'), handlers == (signal.getsignal(2), signal.getsignal(15)))"
    printed, error = run_cell(client, check)
    assert (printed.endswith("True\n"), error) == (True, None)
