"""A page that needs nothing but itself: inline style, pictures inside, no script, no network."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from reports.headline import TEXT_COLUMNS
from reports.human_numbers import MISSING

__all__ = ["bullets", "definitions", "details", "html_table", "page", "picture", "section"]

Columns = Sequence[tuple[str, str, Callable[[Any], str]]]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --paper: #ffffff;
--tint: #f4f6f8;
        --bad: #a33c00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #a5afba; --line: #343b44; --paper: #0f141a; --tint: #1a2129; --bad:
  #ff9d5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
       font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: .5rem; border-top: 1px solid var(--line); }
.lead { color: var(--soft); margin: 0 0 1rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; padding: 0; margin: 0 0 1rem; }
a { color: inherit; text-underline-offset: .2em; }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 3px solid #56b4e9;
outline-offset: 2px; } dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr));
gap: .75rem; margin: 1rem 0; } dl div { background: var(--tint); border-radius: .5rem; padding: .6rem .9rem;
} dt { color: var(--soft); font-size: .85rem; } dd { margin: 0; font-weight: 600; font-variant-numeric:
tabular-nums; overflow-wrap: anywhere; } figure { margin: 0 0 1rem; } figure img { width: 100%; height:
auto; display: block; border-radius: .5rem; } figcaption { color: var(--soft); font-size: .9rem; } .wide {
overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
margin: .5rem 0; } caption { text-align: left; color: var(--soft); padding-bottom: .3rem; } th, td {
padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap;
} tbody th { font-weight: 500; } .number { text-align: right; } .bad { border-left: .3rem solid var(--bad);
background: var(--tint); padding: .5rem 1rem; border-radius: .25rem; } pre { background: var(--tint);
padding: .75rem 1rem; overflow-x: auto; border-radius: .5rem; font-size: .85rem; } summary { cursor:
pointer; } @media print { details, nav { display: none; } h2 { break-after: avoid; } figure, table {
break-inside: avoid; } }
"""
# A browser that follows this policy cannot fetch anything, whatever the text of a scenario holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, lead: str, sections: Sequence[tuple[str, str, str]], intro: str = "") -> str:
    """The whole page: ``sections`` are (anchor, heading, body); a list of links to them follows the title."""
    links = "".join(f'<li><a href="#{anchor}">{escape(heading)}</a></li>' for anchor, heading, _ in sections)
    body = "\n".join(section(*entry) for entry in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p>
{intro}
<nav aria-label="Sections"><ul>{links}</ul></nav>
{body}
</main>
</body>
</html>
"""


def section(anchor: str, heading: str, body: str) -> str:
    """One section with its heading."""
    return (
        f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(heading)}</h2>\n{body}\n</section>'
    )


def picture(light: bytes, dark: bytes, alt: str, caption: str) -> str:
    """A figure that follows the colour scheme of the reader: both pictures are inside the page."""
    images = [base64.b64encode(image).decode() for image in (light, dark)]
    return (
        '<figure><picture><source media="(prefers-color-scheme: dark)" '
        f'srcset="data:image/png;base64,{images[1]}"><img alt="{escape(alt)}" '
        f'src="data:image/png;base64,{images[0]}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def html_table(rows: Iterable[Mapping[str, Any]], columns: Columns, caption: str) -> str:
    """Rows as a table; the first column holds the row headings. Wide tables scroll on their own."""

    def cell(row: Mapping[str, Any], place: int) -> str:
        key, _, form = columns[place]
        value = row.get(key)
        text = escape(MISSING if value is None else form(value))
        if place == 0:
            return f'<th scope="row"{_kind(key)}>{text}</th>'
        return f"<td{_kind(key)}>{text}</td>"

    head = "".join(f'<th scope="col"{_kind(key)}>{escape(name)}</th>' for key, name, _ in columns)
    body = "\n".join(f"<tr>{''.join(cell(row, place) for place in range(len(columns)))}</tr>" for row in rows)
    label = escape(caption)
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0"><table><caption>{label}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _kind(key: str) -> str:
    """Columns of numbers are aligned right."""
    return "" if key in TEXT_COLUMNS else ' class="number"'


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values as a grid of cards."""
    return (
        "<dl>"
        + "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
        + "</dl>"
    )


def bullets(items: Iterable[str]) -> str:
    """A plain list; empty text for no items."""
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def details(summary: str, text: str) -> str:
    """Preformatted text that opens on demand."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
