"""What the site has and plain Markdown has not; mkdocs calls these functions.

- `<!-- names: banks -->` becomes the wing's public names, from their docstrings.
- `<!-- front door -->` becomes the names of `ts` itself, and `<!-- commands -->` the options of the
  command line.
- `ts.elicit` in a text is a link to its entry; so is a page that a docstring names.
- Formulas are MathML, which browsers draw by themselves.
- Links to files outside of docs/ lead to the repository.

A public name without an entry ends the build.
"""

import ast
import html
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.utils import get_relative_url

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
_NAMES = re.compile(r"<!-- names: (\w+) -->")
_CODE = re.compile(r"<code>ts\.([A-Za-z_][\w.]*?)(\([^<]*\))?</code>")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)
_OPENS, _CLOSES = re.compile(r"\\[Bb]ig([(\[])"), re.compile(r"\\[Bb]ig([)\]])")
_PAGE = re.compile(r"(?<![/\w\"])docs/([a-z_/-]+)\.md")
_OUTSIDE = re.compile(r"\]\(((?:\.\./)+)([^)\s#]+)(#[^)\s]*)?\)")


@cache
def public(wing: str) -> dict[str, str]:
    """The names that a wing's `__init__` re-exports (`X as X`), or that a module defines, and where
    each is defined: `elicitation.elicit` is a module as well as a function."""
    path = ROOT / "tl_steer" / wing / "__init__.py"
    if path.is_file():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        lines = [line for line in body if isinstance(line, ast.ImportFrom)]
        found = {
            a.name: f"{line.module}.{a.name}" for line in lines for a in line.names if a.asname
        }
        return dict(sorted(found.items(), key=lambda item: item[0].lower()))
    body = ast.parse(path.parent.with_suffix(".py").read_text(encoding="utf-8")).body
    defined = [d.name for d in body if isinstance(d, ast.ClassDef | ast.FunctionDef)]
    return {n: f"tl_steer.{wing}.{n}" for n in defined if not n.startswith("_")}


@cache
def wings() -> list[str]:
    """Every wing that a page of the reference is about."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    found = [_NAMES.findall(page.read_text(encoding="utf-8")) for page in pages]
    return sorted(wing for several in found for wing in several)


@cache
def front_door() -> dict[str, str]:
    """The names of `ts` itself, and the wing that has each; {} of none."""
    body = ast.parse((ROOT / "tl_steer/__init__.py").read_text(encoding="utf-8")).body
    for line in body:
        if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "_NAMES":
            homes = ast.literal_eval(line.value)
            return {name: wing for wing, names in homes.items() for name in names.split()}
    return {}


def identifiers() -> dict[str, str]:
    """Every public name, and the anchor of its entry."""
    return {f"tl_steer.{wing}.{n}": at for wing in wings() for n, at in public(wing).items()}


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    markdown = _NAMES.sub(lambda found: "\n\n".join(_entries(found[1])), markdown)
    if "<!-- front door -->" in markdown:
        markdown = markdown.replace("<!-- front door -->", "\n".join(_first_day()))
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", "\n".join(_commands()))
    return _OUTSIDE.sub(lambda found: _outside(found, page.file.src_uri), markdown)


def _entries(wing: str) -> Iterator[str]:
    """An entry a name; where a file begins with its method section, that and then its names."""
    homes: dict[str, list[str]] = {}
    for name, at in public(wing).items():
        homes.setdefault(at.rpartition(".")[0], []).append(name)
    for module, names in homes.items():
        if _has_section(module):
            yield f"::: {module}\n    options:\n      members: [{', '.join(names)}]"
        else:
            yield from (f"::: {module}.{name}" for name in names)


def _has_section(module: str) -> bool:
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else ""
    return len((told or "").splitlines()) > 8


def _first_day() -> Iterator[str]:
    homes = front_door()
    yield "| wing | names |\n| --- | --- |"
    for wing in dict.fromkeys(homes.values()):
        names = [name for name, home in homes.items() if home == wing]
        yield f"| [{wing}]({wing}.md) | {', '.join(f'`ts.{name}`' for name in names)} |"


def _commands() -> Iterator[str]:
    """A table of arguments and options for every command."""
    import typer

    from tl_steer.cli import app

    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        yield f"\n## tl-steer {name}\n\n{(command.help or '').strip()}\n"
        yield "| | what it is |\n| --- | --- |"
        for option in command.params:
            if not getattr(option, "hidden", False):
                yield f"| {_said(option)} | {_cell(getattr(option, 'help', None) or '')} |"


def _said(option: Any) -> str:
    called = option.opts if option.param_type_name == "option" else [option.name.upper()]
    return ", ".join(f"`{each}`" for each in called)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _outside(found: re.Match[str], page: str) -> str:
    """A link as it stands, or one into the repository where it leaves docs/."""
    up, path, anchor = found[1].count("../"), found[2], found[3] or ""
    if up <= page.count("/"):
        return found[0]
    meta = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return f"]({meta['project']['urls']['Repository']}/blob/main/{path}{anchor})"


def on_page_content(html: str, *, page: Any, files: Any, **_: Any) -> str:
    html = _FORMULA.sub(_formula, html)
    html = _CODE.sub(_linked, html)
    return _PAGE.sub(lambda found: _to_page(found, page, files), html)


def _formula(found: re.Match[str]) -> str:
    shown = "block" if found[1] == "div" else "inline"
    text = _OPENS.sub(r"\\left\1", html.unescape(found[2]))  # an exponent is the whole bracket's
    return str(convert(_CLOSES.sub(r"\\right\1", text), display=shown))


def _linked(found: re.Match[str]) -> str:
    head, _, rest = found[1].partition(".")
    wing = front_door().get(head)
    name, _, rest = (head, "", rest) if wing else rest.partition(".")
    at = public(wing or head).get(name) if wing or head in wings() else None
    full = ".".join(filter(None, (at, rest)))
    return f'<autoref optional identifier="{full}">{found[0]}</autoref>' if at else found[0]


def _to_page(found: re.Match[str], page: Any, files: Any) -> str:
    there = files.get_file_from_path(f"{found[1]}.md")
    if there is None:
        return found[0]
    return f'<a href="{get_relative_url(there.url, page.url)}">{found[0]}</a>'


def on_post_build(*, config: Any, **_: Any) -> None:
    pages = (Path(config["site_dir"]) / "reference").glob("*.html")
    ids = {
        i for page in pages for i in re.findall(r'id="(tl_steer\.[\w.]+)"', page.read_text("utf-8"))
    }
    missing = [name for name, at in identifiers().items() if at not in ids]
    if missing:
        raise PluginError(f"No entry in the reference: {', '.join(missing)}.")
