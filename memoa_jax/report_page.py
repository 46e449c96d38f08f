"""A report as one page of HTML: no script, nothing from elsewhere, the same bytes every time."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from memoa_jax._version import __version__
from memoa_jax.figure_style import Picture

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser lets the page load: the pictures and the style that are in it."""
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --quiet: #595959;
  --line: #d0d0d0; --shade: #f4f4f4; --alarm: #8f3a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --quiet: #b0b0b0;
  --line: #444444; --shade: #222222; --alarm: #ffb37a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 86rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 0 0 0.4rem; }
p { margin: 0.4rem 0; max-width: 60rem; overflow-wrap: anywhere; }
a { color: inherit; }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.2rem; list-style: none; padding: 0; }
.quiet, figcaption { color: var(--quiet); font-size: 0.9rem; }
.alarm { border-left: 0.3rem solid var(--alarm); padding: 0.3rem 0.8rem; background: var(--shade); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 0.3rem;
  background: var(--shade); padding: 0.6rem 0.8rem; }
pre { margin: 0; font: 0.85rem/1.4 ui-monospace, monospace; }
.figures { columns: 30rem; column-gap: 2rem; margin-top: 1rem; }
figure { margin: 0 0 1.8rem; break-inside: avoid; }
figure img { display: block; width: 100%; max-width: 44rem; height: auto; background: #ffffff;
  border: 1px solid var(--line); border-radius: 0.3rem; }
figcaption { margin-top: 0.4rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.15rem 1rem 0.15rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
@media print { :root { --ink: #000000; --paper: #ffffff; --quiet: #333333; --line: #bbbbbb;
    --shade: #ffffff; --alarm: #000000; }
  nav { display: none; } body { max-width: none; padding: 0; font-size: 10pt; }
  .figures { columns: 2; } .scroll { overflow: visible; }
  pre { font-size: 6.5pt; white-space: pre-wrap; } h2 { break-after: avoid; } }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page: what it says, its figures, a text of fixed width, a table."""

    title: str
    words: Sequence[str] = ()
    text: str = ""
    pictures: Sequence[Picture] = ()
    table: Mapping[str, Any] | None = None


def page(title: str, subtitle: str, warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """Return a report's page.

    Args:
      title: of the results.
      subtitle: what they are, in a line.
      warnings: what a reader must know first, such as that a run was interrupted.
      sections: in their order.

    Example:
      >>> "<script" in page("a <script>", "", [], [])
      False
    """
    links = "".join(
        f'<li><a href="#{_anchor(one.title)}">{escape(one.title)}</a></li>' for one in sections
    )
    alarms = "".join(f'<p class="alarm" role="note">{escape(one)}</p>\n' for one in warnings)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="memoa_jax {escape(__version__)}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(subtitle)}</p>
{alarms}</header>
<nav aria-label="Contents"><ul>{links}</ul></nav>
<main>
{"".join(map(_section, sections))}</main>
<footer><p class="quiet">memoa_jax {escape(__version__)}</p></footer>
</body>
</html>
"""


def _section(one: Section) -> str:
    name = _anchor(one.title)
    parts = [f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(one.title)}</h2>\n']
    parts += [f"<p>{escape(words)}</p>\n" for words in one.words]
    if one.text:
        parts.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(one.title)}">'
            f"<pre>{escape(one.text.rstrip())}</pre></div>\n"
        )
    if one.pictures:
        figures = "".join(map(_figure, one.pictures))
        parts.append(f'<div class="figures">\n{figures}</div>\n')
    if one.table is not None:
        rows = "".join(
            f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(value))}</td></tr>\n'
            for key, value in one.table.items()
        )
        parts.append(f"<table>\n{rows}</table>\n")
    return "".join([*parts, "</section>\n"])


def _figure(one: Picture) -> str:
    # Width and height before the picture is there: nothing jumps while the page loads.
    width, height = (int.from_bytes(one.png[at : at + 4], "big") for at in (16, 20))
    return (
        f'<figure id="{_anchor("figure " + one.name)}">\n<h3>{escape(one.title)}</h3>\n'
        f'<img alt="{escape(one.alt)}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{base64.b64encode(one.png).decode()}">\n'
        f"<figcaption>{escape(one.caption)} File: {escape(file_name(one))}</figcaption>\n"
        "</figure>\n"
    )


def file_name(one: Picture) -> str:
    """Return the name of a picture's file beside the page."""
    return f"report-{one.name}.png"


def _anchor(title: str) -> str:
    """Return a name for an element.

    Example:
      >>> _anchor("What is (not) here")
      'what-is-not-here'
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
