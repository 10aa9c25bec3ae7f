"""The report in a real browser, from its file: drawn, hovered over, searched, without an error."""

import pytest
from browser import open_browser, open_page
from sweep_samples import event, new_sweep, session, write_events
from test_pictures import random_search

from sweep.show.report import write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


def test_a_report_is_drawn_and_answers_mouse_and_keyboard(browser):
    folder, _ = new_sweep("seen")
    trials = random_search()
    for told in trials:
        told |= {"worker": "here:1"} if told["event"] == "evaluation" else {}
    write_events(folder, session(num_samples=24), trials, event("session_ended", completed=True))
    path = write_report(folder)
    asked = []
    with open_page(browser) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.emulate_media(color_scheme="light")
        page.goto(f"file://{path}")
        plots = page.locator(".plot")
        assert plots.count() == 8
        for n in range(8):  # each is drawn as it comes into view
            plots.nth(n).scroll_into_view_if_needed()
            plots.nth(n).locator(".main-svg").first.wait_for()
            assert plots.nth(n).evaluate(
                "plot => plot.previousElementSibling.classList.contains('bar')"
            )

        valleys = page.locator("#valleys")
        valleys.scroll_into_view_if_needed()
        mark = valleys.locator(".scatterlayer .point").first.bounding_box()
        page.mouse.move(mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
        hover = valleys.locator(".hoverlayer .hovertext")
        hover.wait_for()
        assert "lr=" in hover.first.text_content()

        valleys.focus()
        page.keyboard.press("ArrowRight")
        spoken = valleys.locator("xpath=following-sibling::*[1]")
        assert "lr=" in spoken.text_content()
        before = valleys.evaluate("plot => plot._fullLayout.yaxis.range[1]")
        page.keyboard.press("-")
        page.wait_for_function(
            "before => document.getElementById('valleys')._fullLayout.yaxis.range[1] > before",
            arg=before,
        )
        page.keyboard.press("0")
        page.wait_for_function(
            "before => Math.abs("
            "document.getElementById('valleys')._fullLayout.yaxis.range[1] - before) < 1e-6",
            arg=before,
        )

        lowest = page.get_by_role("button", name="lowest losses")
        lowest.click()
        page.wait_for_function(
            "before => document.getElementById('valleys')._fullLayout.yaxis.range[1] < before",
            arg=before,
        )
        assert lowest.get_attribute("aria-pressed") == "true"
        valleys.focus()
        page.keyboard.press("0")
        assert lowest.get_attribute("aria-pressed") == "false"

        entry = valleys.locator("xpath=preceding-sibling::*[1]/button").first
        seen = valleys.locator(".scatterlayer .trace").count()
        entry.click()
        assert entry.get_attribute("aria-pressed") == "false"
        assert valleys.locator(".scatterlayer .trace").count() < seen

        page.get_by_role("button", name="logarithmic steps").click()
        page.wait_for_function("document.getElementById('curves')._fullLayout.xaxis.type === 'log'")

        rows = page.locator("#trials tbody tr")
        assert rows.count() == 24
        page.get_by_role("button", name="lr", exact=True).click()
        rates = [float(text) for text in rows.locator("td:nth-child(5)").all_text_contents()]
        assert rates == sorted(rates)
        page.get_by_role("button", name="lr").click()
        rates = [float(text) for text in rows.locator("td:nth-child(5)").all_text_contents()]
        assert rates == sorted(rates, reverse=True)
        page.locator("#search").fill("t007")
        assert rows.count() == 1
        assert page.locator("#found").text_content() == "1 of 24 trials"
        rows.get_by_role("button", name="commands").click()
        assert "--optim.lr" in page.locator("#trials code").first.text_content()

        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        ink = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')")
        page.wait_for_function(
            "ink => document.getElementById('valleys')._fullLayout.font.color === ink",
            arg=ink.strip(),
        )
        # Paper is white, whatever the reader's screen is.
        painted = "document.getElementById('valleys')._fullLayout.font.color"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(painted) == "#000"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(painted) == ink.strip()
    assert [url for url in asked if not url.startswith(("file://", "blob:", "data:"))] == []
