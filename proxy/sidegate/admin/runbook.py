"""The runbook chapters of docs/operations.md as a page, so that a problem's link works without another host."""

import html
import re
from importlib.resources import files
from pathlib import Path

_NAME = "operations.md"


def runbook_html() -> str:
    """The page; headings carry the anchors that `problem.runbook` names."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sidegate runbook</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        'content="light dark"><link rel="icon" href="/static/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="/static/dashboard.css"></head><body class="runbook">'
        f"<main>{''.join(map(_block, runbook_text().split(chr(10) * 2)))}</main></body></html>"
    )


def runbook_text() -> str:
    """The chapters Alerts and Runbooks; a sentence if the package was built without its documentation."""
    packaged = files(__package__).joinpath("static", _NAME)
    checkout = Path(__file__).parents[3] / "docs" / _NAME  # an editable install
    source = packaged if packaged.is_file() else checkout
    if not source.is_file():
        return f"## Runbooks\n\nSee docs/{_NAME} of this version."
    text = source.read_text("utf-8")
    return "\n\n".join(_chapter(text, name) for name in ("Runbooks", "Alerts"))


def anchor(heading: str) -> str:
    """The anchor that a heading has, as in rendered Markdown: lower case, hyphens for spaces."""
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


def _chapter(text: str, name: str) -> str:
    found = re.search(rf"^## {name}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[0].strip() if found else ""


def _block(block: str) -> str:
    if heading := re.fullmatch(r"(#{2,4}) (.+)", block.strip()):
        level = len(heading[1])
        return f'<h{level} id="{anchor(heading[2])}">{_inline(heading[2])}</h{level}>'
    if block.lstrip().startswith("|"):
        rows = [row.strip().strip("|").split(" | ") for row in block.strip().splitlines()]
        cells = [
            "".join(f"<td>{_inline(cell.strip())}</td>" for cell in row) for row in rows if set(row[0]) - set("- |")
        ]
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
    unwrapped = re.sub(r"\n(?! *(?:[0-9]+\.|[*-]) ) *", " ", block.strip())  # lines wrap by the page's width
    return f"<pre>{_inline(unwrapped)}</pre>" if unwrapped else ""


def _inline(text: str) -> str:
    escaped = html.escape(text.replace("\\|", "|"))
    linked = re.sub(r"\[([^\]]+)\]\((#[a-z0-9-]+)\)", r'<a href="\2">\1</a>', escaped)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", linked)
