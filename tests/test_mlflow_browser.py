"""MLflow's real pages on the real store of a real sweep, in a browser, as a stranger finds them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import open_browser, open_page
from live_sweeps import FIXED, free_port, make_project, run
from mlflow_server import mlflow_server
from playwright.sync_api import Browser, Page, expect

from sweep.record.results import SweepRecord, TrialRecord
from sweep.tracking.view import run_name

pytestmark = pytest.mark.slow

MLFLOWS_OWN = (
    "/mlflow/users/current",  # asked of every server: answered by those with accounts
    "ResizeObserver loop",  # its tables while they are laid out
)

TRIAL = re.compile(r"^t\d{3} ")


@dataclass(frozen=True)
class Pages:
    """A sweep on a server, and a browser."""

    address: str
    browser: Browser
    printed: list[str]
    """Addresses that the sweep's end printed, on this server."""
    trials: list[TrialRecord]
    """The best first."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """Run a sweep and the server on its store; open a browser."""
    home: Path = tmp_path_factory.mktemp("seen")
    config = str(make_project(home))
    with open_browser() as browser:
        done = run(home, "sweep/run.py", "--config", config, "--name", "seen", *FIXED)
        assert done.returncode == 0, done.stderr
        with mlflow_server(free_port(), home) as address:
            printed = re.findall(r"http://127.0.0.1:5000(\S+)", done.stdout)
            trials = SweepRecord.read(home / "results" / "seen").ranked
            yield Pages(address, browser, [address + route for route in printed], trials)


@pytest.fixture
def page(pages: Pages) -> Iterator[Page]:
    """Open an empty page of somebody who was never here; its console must stay without errors."""
    with open_page(pages.browser, *MLFLOWS_OWN) as page:
        page.context.set_default_timeout(20_000)  # tabs that it opens, too
        expect.set_options(timeout=20_000)
        yield page


def open_experiment(pages: Pages, page: Page) -> None:
    """Go from the plain address to the experiment, by two clicks."""
    page.goto(pages.address)
    page.get_by_text("Model training", exact=True).first.click()
    page.get_by_role("link", name="lm-sweep", exact=True).first.click()


def opened(page: Page, link: str) -> Page:
    """Click a link of a note or description: MLflow opens those in another tab."""
    with page.expect_popup() as tab:
        page.get_by_role("link", name=link, exact=True).first.click()
    return tab.value


def test_two_clicks_lead_from_the_plain_address_to_the_sweep(pages: Pages, page: Page) -> None:
    open_experiment(pages, page)
    expect(page.get_by_text("Sweeps, the newest first:")).to_be_visible()
    best = pages.trials[0]
    told = f"Best: val_loss {best.best_val_loss:.4f}"
    expect(opened(page, "seen").get_by_text(told)).to_be_visible()
    row = page.get_by_role("row").get_by_role("link", name="seen", exact=True)
    row.last.click()  # the first is that of the description, which is folded
    expect(page.get_by_text(told)).to_be_visible()


def test_the_sweeps_page_holds_report_and_leaderboard(pages: Pages, page: Page) -> None:
    open_experiment(pages, page)
    artifacts = opened(opened(page, "seen"), "report")
    report = artifacts.frame_locator("iframe")
    expect(report.get_by_text(pages.trials[0].name).first).to_be_visible()
    artifacts.get_by_text("leaderboard.json", exact=True).first.click()
    for trial in pages.trials:
        expect(artifacts.get_by_text(trial.name, exact=True).first).to_be_visible()


def test_the_printed_table_shows_all_trials_the_best_first(pages: Pages, page: Page) -> None:
    page.goto(pages.printed[0])
    expect(page.get_by_text(f"{len(pages.trials)} matching runs")).to_be_visible()
    names = page.get_by_role("link", name=TRIAL)
    expect(names).to_have_count(len(pages.trials))
    assert names.all_inner_texts() == [run_name(trial) for trial in pages.trials]
    for head in ("best_val_loss", "optim.lr", "model.d_model", "outcome"):
        expect(page.get_by_role("columnheader", name=head).first).to_be_visible()


def test_the_printed_charts_are_drawn_and_nothing_else(pages: Pages, page: Page) -> None:
    page.goto(pages.printed[1])
    expect(page.get_by_text("The sweep", exact=True)).to_be_visible()
    curves, points = (page.locator(".js-plotly-plot").nth(place) for place in (0, 1))
    expect(curves.locator("path.js-line").first).to_be_attached()
    expect(points.locator("path.point")).to_have_count(len(pages.trials))
    assert page.get_by_text("tokens_per_second").count() == 0


def test_the_views_menu_lists_the_sweep(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.address}/#/experiments/1/runs?workflowType=machine_learning")
    page.get_by_test_id("saved-views-trigger").click()
    expect(page.get_by_text("seen charts", exact=True)).to_be_visible()
    page.get_by_text("seen charts", exact=True).click()
    expect(page.get_by_role("link", name=TRIAL)).to_have_count(len(pages.trials))
