"""The report: one HTML file that holds everything and asks nobody for anything.

Data and plotly lie in it deflated, in base64: a browser inflates them, and what a record holds can
be no HTML. The policy in its head names the two scripts by their digests and allows no request.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sweep.pictures.picture import Picture
from sweep.pictures.table import TrialTable

DEFLATE_LEVEL = 6
"""1.5 of plotly's 4.8 MB, in a fifth of a second."""

Row = tuple[str, ...]


def page(
    title: str,
    answer: Sequence[str],
    commands: Sequence[tuple[str, str]],
    findings: Sequence[tuple[str, str]],
    pictures: Sequence[Picture],
    table: TrialTable | None,
    facts: Sequence[tuple[str, Sequence[str], Iterable[Row]]],
) -> str:
    """Return the HTML of a report.

    Args:
        title: names the sweep or the sweeps.
        answer: paragraphs; the first is the largest.
        commands: what to do next: in words, and what to type.
        findings: each a sentence, and the rule behind it.
        pictures: in order.
        table: all trials; None: no such section.
        facts: tables of text at the end: a heading, the columns' names, and rows.
    """
    from plotly.offline import get_plotlyjs  # the library itself is used in the browser only

    library, program = get_plotlyjs(), _asset("page.js")
    data = {
        "pictures": [_drawn(picture) for picture in pictures],
        "table": None if table is None else table.data(),
    }
    policy = (
        f"default-src 'none'; script-src {_digest(library)} {_digest(program)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    first, *others = [f"<p>{escape(paragraph)}</p>" for paragraph in answer]
    others += [f"<p>{escape(what)}<code>{escape(typed)}</code></p>" for what, typed in commands]
    said = "".join(
        f'<li>{escape(text)}<br><span class="note">{escape(rule)}</span></li>'
        for text, rule in findings
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{_asset('page.css')}</style></head><body><main>",
            f"<h1>{escape(title)}</h1>",
            f'<div class="answer">{first}</div>',
            *others,
            f"<h2>Findings</h2><ul>{said}</ul>" if said else "",
            "<noscript><p>The pictures and the table of trials are drawn by JavaScript, which is "
            "off here. The main pictures lie beside this file, in pictures/.</p></noscript>",
            '<p id="trouble" role="alert" hidden></p>',
            *(_section(picture) for picture in pictures),
            _table_section(len(table)) if table is not None else "",
            *(_facts_section(*part) for part in facts),
            "</main>",
            f'<script type="text/plain" id="library">{_packed(library)}</script>',
            f'<script type="text/plain" id="data">{_packed(_json(data))}</script>',
            f"<script>{program}</script>",
            "</body></html>",
            "",
        ]
    )


def _drawn(picture: Picture) -> dict[str, Any]:
    """Return what the browser needs of a picture."""
    return {
        "key": picture.key,
        "traces": picture.traces,
        "layout": picture.layout,
        "switches": picture.switches,
    }


def _section(picture: Picture) -> str:
    key, title = escape(picture.key), escape(picture.title)
    note = f'<p class="note">{escape(picture.note)}</p>' if picture.note else ""
    drawing = (
        f'<div class="bar"></div><div class="plot" id="{key}" tabindex="0" role="img" '
        f'aria-label="{title}: {escape(picture.sentence)} Arrow keys go from point to point, '
        '+ and - zoom, 0 shows all again."></div><p class="spoken" aria-live="polite"></p>'
        if picture.traces
        else ""
    )
    return (
        f'<section><h2>{title}</h2><figure>{drawing}<figcaption><p class="see">'
        f"{escape(picture.sentence)}</p>{note}</figcaption></figure></section>"
    )


def _table_section(trials: int) -> str:
    return (
        '<section><h2 id="trials-title">All trials</h2><div class="bar"><label>search '
        '<input type="search" id="search" placeholder="t007, diverged, 128 ..."></label>'
        f'<span id="found">{trials:,} trials</span></div><div class="wide" tabindex="0" '
        'role="region" aria-labelledby="trials-title"><table id="trials"></table></div>'
        '<button id="more" hidden></button></section>'
    )


def _facts_section(heading: str, columns: Sequence[str], rows: Iterable[Row]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in rows
    )
    return (
        f'<section><h2>{escape(heading)}</h2><div class="wide"><table class="facts">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _json(data: Any) -> str:
    return json.dumps(data, allow_nan=False, separators=(",", ":"))


def _packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), DEFLATE_LEVEL)).decode()


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
