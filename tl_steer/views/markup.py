"""SVG and HTML that came as text, made harmless.

An image goes into a page as an image: browsers run nothing in one, and load nothing for it. HTML
is taken apart here and built again, element by element, from those below: no text becomes markup.
"""

import base64
import re
from html.parser import HTMLParser
from typing import Any
from xml.parsers import expat

from tl_steer.errors import SettingError

_SVG = "http://www.w3.org/2000/svg"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ELEMENTS = _words(
    "b blockquote br caption code col colgroup dd del div dl dt em figcaption figure h1 h2 h3 h4 "
    "h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub sup table tbody td "
    "tfoot th thead tr u ul"
)
_EMPTY = _words("br col hr img")
# What an element ends that was left open, as HTML has it.
_ENDS = {
    "li": {"li", "p"},
    "p": {"p"},
    "dt": {"dt", "dd", "p"},
    "dd": {"dt", "dd", "p"},
    "td": {"td", "th", "p"},
    "th": {"td", "th", "p"},
    "tr": {"tr", "td", "th", "p"},
    "tbody": {"thead", "tr", "td", "th", "p"},
}
# Left out with all that is in them: not for people to read, or foreign to HTML.
_LEFT_OUT = _words(
    "head iframe math noscript object script select style svg template textarea title"
)
_ATTRIBUTES = _words("alt colspan dir lang rowspan scope span start title")
_STYLES = _words(
    "background-color border border-bottom border-collapse border-left border-right border-top "
    "color font-family font-size font-style font-weight max-width min-width padding padding-left "
    "padding-right text-align text-decoration vertical-align white-space width"
)
# No function but of colours: others fetch, or reach into the page.
_VALUE = re.compile(r"(?:[\w#%., -]|(?:rgb|rgba|hsl|hsla)\([\d.,%/ ]*\))+")
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+")
_MOST_DEEP = 40


def svg_of(text: str) -> str:
    """An SVG image in base64.

    Raises:
        SettingError: it is none, or not well-formed.
    """
    if not re.search(r"<svg\b[^>]*\bxmlns\s*=", text):
        text = re.sub(r"<svg\b", f'<svg xmlns="{_SVG}"', text, count=1)
    data, roots = text.encode("utf-8", "replace"), []
    parser = expat.ParserCreate(encoding="utf-8", namespace_separator=" ")
    parser.StartElementHandler = lambda name, _: roots.append(name)
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise SettingError(f"own_view(): svg= is not well-formed: {error}.") from error
    if roots[0] != f"{_SVG} svg":
        raise SettingError(f"own_view(): svg= is a {roots[0][:60]!r}; expected an <svg> element.")
    return base64.b64encode(data).decode("ascii")


def _refuse_entity(*_: Any) -> None:
    raise SettingError("own_view(): svg= declares entities; expected an image without.")


def nodes_of(text: str) -> list[Any]:
    """HTML as texts and `[tag, attributes, nodes]`, of what is harmless in it."""
    parser = _Builder()
    parser.feed(text)
    parser.close()
    return parser.nodes


class _Builder(HTMLParser):
    """Keeps what the lists above name, and the texts in everything that is not left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.nodes: list[Any] = []
        self._open: list[tuple[str, list[Any]]] = [("", self.nodes)]
        self._out: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._out or tag in _LEFT_OUT:
            self._out += [tag] * (tag in _LEFT_OUT)
            return
        while self._open[-1][0] in _ENDS.get(tag, ()):
            self._open.pop()
        if tag in _ELEMENTS and len(self._open) < _MOST_DEEP:
            inside: list[Any] = []
            self._open[-1][1].append([tag, _attributes(tag, attrs), inside])
            if tag not in _EMPTY:
                self._open.append((tag, inside))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._out:
            if tag in self._out:
                while self._out.pop() != tag:
                    pass
        elif tag in [name for name, _ in self._open]:
            while self._open.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not self._out:
            self._open[-1][1].append(data)


def _attributes(tag: str, attrs: list[tuple[str, str | None]]) -> dict[str, Any]:
    kept: dict[str, Any] = {n: v for n, v in attrs if n in _ATTRIBUTES and v is not None}
    given = {name: value or "" for name, value in attrs}
    if tag == "img" and _PICTURE.fullmatch(given.get("src", "")):
        kept["src"] = given["src"]
    pairs = [part.partition(":")[::2] for part in given.get("style", "").split(";")]
    styles = {name.strip().lower(): value.strip() for name, value in pairs}
    styles = {n: v for n, v in styles.items() if n in _STYLES and _VALUE.fullmatch(v)}
    return kept | ({"style": styles} if styles else {})
