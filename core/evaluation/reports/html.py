"""HTML of the reports. Image files are given relative to the page, with / between folders."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

_STYLE = """
body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#222;
background:#fff}}
table{{border-collapse:collapse;margin:1rem 0}}
th,td{{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}}
td:nth-child(-n+2),th:nth-child(-n+2){{text-align:left}}td:nth-child(n+{gray}),td.gray{{color:#777}}
td.own,td.words,td.figure{{color:inherit}}svg{{margin-right:1rem}}
td.words,th.words{{text-align:left}}td.figure,th.figure{{text-align:right}}
.row{{display:flex;gap:4px;align-items:center;margin:2px 0;flex-wrap:wrap}}
.row b{{width:190px;font-weight:400;font-size:13px}}
.row img{{width:104px;height:104px;object-fit:cover}}.row b small{{display:block;line-height:1.25}}
.sample{{display:flex;gap:8px;align-items:flex-start;margin:12px 0;font-size:13px}}
.sample img{{width:176px;height:176px;object-fit:contain}}.sample p{{margin:0 0 .2rem;overflow-wrap:anywhere}}
h2{{margin-top:2.5rem}}h3{{margin:1.5rem 0 .3rem}}small{{color:#777}}
"""

_WORD = re.compile(r"[^\W\d_]{3}")


def page_head(title: str, about: Mapping[str, Any], gray_from: int) -> list[str]:
    """Returns the start of a page: style, heading, and what was run.

    Args:
        title: the benchmark's name.
        about: settings of the run.
        gray_from: table columns from this number on, counted from 1, are gray (published figures).
    """
    style = _STYLE.format(gray=gray_from)
    entries = [f"{escape(str(key))}: {escape(str(value))}" for key, value in about.items()]
    return [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{style}</style><h1>{escape(title)}</h1>",
        f"<p>{' · '.join(entries)}</p>",
    ]


def table(
    title: str, heads: Iterable[str], rows: Iterable[Sequence[str]], gray_from: int | None = None
) -> str:
    """Returns a table under a heading.

    Args:
        title: the heading.
        heads: the columns of the figures.
        rows: cells of each row: data set, method, figures.
        gray_from: columns from this number on are gray; None leaves it to the page.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in ("Datasets", "Method", *heads))
    body = "".join("<tr>" + "".join(_cells(row, gray_from)) + "</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table>"


def _cells(row: Sequence[str], gray_from: int | None) -> Iterator[str]:
    for number, cell in enumerate(row, 1):
        mark = "" if gray_from is None else " class=gray" if number >= gray_from else " class=own"
        yield f"<td{mark}>{escape(cell)}</td>"


def method_list(methods: Iterable[tuple[str, str, str]]) -> str:
    """Returns a list of methods, each given as (name, the paper's name, one line of text)."""
    items = [f"<li><b>{name}</b> ({title}): {text}</li>" for name, title, text in methods]
    return f"<ul>{''.join(items)}</ul>"


def images(files: Iterable[str]) -> str:
    """Returns the images without a title."""
    # Names may hold characters that mean something else in an address: % # ?
    return "".join(f'<img loading=lazy src="{escape(quote(file))}" alt="">' for file in files)


def image_row(title: str, files: Iterable[str], note: str = "") -> str:
    """Returns images side by side under a title."""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f"<div class=row><b>{escape(title)}{small}</b>{images(files)}</div>"


def sample(title: str, files: Iterable[str], facts: Mapping[str, str]) -> str:
    """Returns images side by side, and beside them facts with their names."""
    lines = "".join(f"<p><small>{escape(name)}</small> {escape(text)}</p>" for name, text in facts.items())
    return f"<div class=sample>{images(files)}<div><p><b>{escape(title)}</b></p>{lines}</div></div>"


def plain_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table under a heading; ``heads`` are all its columns. Words stand left, figures right."""
    rows = list(rows)
    kinds = [
        "words" if any(_WORD.search(row[column]) for row in rows) else "figure"
        for column in range(len(heads))
    ]
    lines = [
        "".join(f"<{tag} class={kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))
        for tag, row in (("th", heads), *(("td", row) for row in rows))
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<h2>{escape(title)}</h2><table>{body}</table>"
