"""The import table, read from the source: which package may load what, and no global randomness."""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RunPython

import trainable

ROOT = Path(trainable.__file__).resolve().parents[1]
TRAINABLE = sorted((ROOT / "trainable").glob("**/*.py"))
SWEEP = sorted((ROOT / "sweep").glob("**/*.py"))
SOURCES = {str(path.relative_to(ROOT)): path for path in [*TRAINABLE, *SWEEP]}

ORDER = {
    "trainable": [
        *(
            "common",
            "storage",
            "config",
            "model",
            "data",
            "hardware",
            "passes",
            "checkpoint",
            "training",
        )
    ],
    "sweep": [
        *("common", "config", "record", "analysis", "pictures", "search", "plan", "cluster"),
        *("control", "engine", "tracking", "show", "evidence", "conduct", "doors"),
    ],
}
"""The folders of each package from the lowest up; the commands lie on top of them."""
HEAVY = {"ray", "mlflow", "optuna", "matplotlib", "plotly", "sweep"}
OWN_GENERATORS = {"default_rng", "Generator", "Philox", "PCG64", "SeedSequence", "BitGenerator"}
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli"}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of everything imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: a file must run as a script, too"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(parsed(path))}


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for such an expression, with module aliases written out; else ""."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    first = {"np": "numpy"}.get(node.id, node.id)
    return ".".join([first, *reversed(parts)])


def is_script(path: Path) -> bool:
    return any(
        isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        for node in parsed(path).body
    )


SCRIPTS = [name for name, path in SOURCES.items() if is_script(path)]


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT)) for path in TRAINABLE])
def test_trainable_imports_nothing_of_the_search(name: str) -> None:
    allowed = {"ray"} if name == "trainable/tune_trainable.py" else set()
    assert packages(SOURCES[name]) & HEAVY == allowed


def height(package: str, parts: list[str]) -> int:
    """Return the place in the order of a module, given its dotted name behind the package."""
    folders = ORDER[package]
    return folders.index(parts[0]) if parts and parts[0] in folders else len(folders)


def arrows_up(name: str, tree: ast.AST) -> list[str]:
    """Return what a file imports from its own package that does not lie below its folder."""
    package, *parts = Path(name).with_suffix("").parts
    own = height(package, parts[:-1])
    found = []
    for imported in imports(tree):
        target, *inside = imported.split(".")
        if target == package and inside and inside[0] not in parts[:-1]:
            found += [imported] if height(package, inside) >= own else []
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_imports_run_down_the_order_of_folders(name: str) -> None:
    """Lazy imports and those for types only count as well."""
    assert arrows_up(name, parsed(SOURCES[name])) == []


def test_every_folder_has_its_place_in_the_order() -> None:
    for package, folders in ORDER.items():
        there = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert there == set(folders)


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("sweep/record/a.py", "from sweep.show.tables import x", True),
        ("sweep/record/a.py", "def f():\n    import sweep.show.tables", True),
        ("sweep/record/a.py", "if TYPE_CHECKING:\n    from sweep.run import main", True),
        ("sweep/record/a.py", "from sweep import show", True),
        ("sweep/record/a.py", "from sweep.config.sweep import SweepConfig", False),
        ("sweep/record/a.py", "from sweep.record.events import Event", False),
        ("sweep/record/a.py", "from trainable.training.trainer import Trainer", False),
        ("sweep/a.py", "from sweep.conduct.start import start_sweep", False),
        ("trainable/data/a.py", "from trainable import tune_trainable", True),
        ("trainable/training/a.py", "from trainable.passes import fused", False),
    ],
)
def test_an_arrow_up_is_found(name: str, line: str, found: bool) -> None:
    assert bool(arrows_up(name, ast.parse(line))) == found


@pytest.mark.parametrize("name", SOURCES)
def test_no_global_random_state_is_used(name: str) -> None:
    tree = parsed(SOURCES[name])
    for imported in imports(tree):
        parent, _, leaf = imported.rpartition(".")
        assert parent != "random" or leaf in ("Random", "SystemRandom"), imported
        assert imported not in ("torch.manual_seed", "torch.seed", "numpy.random.seed"), imported
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        parent, _, leaf = called.rpartition(".")
        place = f"{name}:{node.lineno}: {called}"
        assert leaf != "manual_seed" or parent not in ("torch", "torch.random"), place
        assert leaf != "manual_seed_all", place
        if parent == "numpy.random":
            assert leaf in OWN_GENERATORS, place
        if parent == "random":
            assert leaf in ("Random", "SystemRandom"), place
        if parent == "torch" and leaf in DRAWS:
            assert "generator" in {keyword.arg for keyword in node.keywords}, place


def test_config_does_not_load_torch(run_python: RunPython) -> None:
    code = (
        "import sys\n"
        "import trainable.config.flags, trainable.config.trial, trainable.model.counts\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {"torch", "numpy", "ray", "tyro"}


def test_importing_does_nothing_visible(
    run_python: RunPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for variable in ("HOME", "LM_SWEEP_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(home))
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in TRAINABLE
        if path.stem not in ("__init__", "tune_trainable")
    ]
    code = (
        "import logging, os, sys, importlib\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "assert not logging.root.handlers\n"
        "assert not os.listdir('.')"
    )
    done = run_python("-c", code, *names)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_shows_its_help_from_another_folder(name: str, run_python: RunPython) -> None:
    done = run_python(SOURCES[name], "--help")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_uses_the_checkout_it_lies_in(
    name: str, tmp_path: Path, run_python: RunPython
) -> None:
    """An installed copy elsewhere must not be picked up: this checkout's packages exit with 7."""
    for package in ("trainable", "sweep"):
        shutil.copytree(ROOT / package, tmp_path / package)
        (tmp_path / package / "__init__.py").write_text("raise SystemExit(7)\n")
    assert run_python(tmp_path / name, "--help").returncode == 7


def test_the_scripts_are_found() -> None:
    assert {"trainable/local.py", "trainable/generate.py", "trainable/prepare.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_unpickles(name: str) -> None:
    tree = parsed(SOURCES[name])
    assert not packages(SOURCES[name]) & {"pickle", "cloudpickle", "dill", "joblib", "marshal"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) == "torch.load":
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert given.get("weights_only") == "True"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False"
        assert not isinstance(node, ast.Attribute) or node.attr not in ("restore", "from_path")


def test_the_architecture_names_what_there_is() -> None:
    """Its picture has the folders from the highest down, its text only files that exist."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    picture = text.split("```")[1]
    shown = re.findall(r"^ ([a-z]+)/ ", picture, re.MULTILINE)
    assert shown == [*reversed(ORDER["sweep"]), *reversed(ORDER["trainable"])]
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text))
    roots = (ROOT, ROOT / "sweep", ROOT / "trainable")
    assert len(named) > 20
    assert [name for name in named if not any((root / name).is_file() for root in roots)] == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_stays_short(name: str) -> None:
    assert len(SOURCES[name].read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("document", ["RELIABILITY.md", "SECURITY.md"])
def test_every_test_that_a_promise_names_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text)
    assert len(named) > 10
    for file, test in named:
        tests = {
            node.name
            for node in parsed(ROOT / "tests" / file).body
            if isinstance(node, ast.FunctionDef)
        }
        assert test in tests or not test, f"{file}::{test}"
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert all("`test_" in row for row in rows)
