"""A view of one's own: what reaches the page, and what is refused."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from conftest import bank_of
from test_views import ATTACKS, OURS, Tags

import tl_steer as ts
from tl_steer.errors import SettingError, ShapeError, plain
from tl_steer.views.markup import nodes_of

SCRIPT = "(root, data, T) => T.add(root, T.bars(data));"
SVG = '<svg viewBox="0 0 9 9"><circle cx="4" cy="4" r="3" style="fill: red"/></svg>'


def data_of(page):
    return json.loads(re.search(r'id="view">(.*?)</script>', page, re.DOTALL).group(1))["data"]


def test_data_reach_the_page_as_they_are_and_attacks_stay_text():
    data = {"a": ATTACKS, "b": torch.tensor([1.5, torch.nan]), "c": np.arange(2), 3: (None, True)}
    page = ts.views.own_view(ATTACKS[0], data, script=SCRIPT).html()
    assert data_of(page) == {
        "a": [a if a.isprintable() else plain(a) for a in ATTACKS],
        "b": [1.5, None],
        "c": [0, 1],
        "3": [None, True],
    }
    assert set(Tags(page).found) == OURS
    assert "\u2028" not in page
    assert "\u202e" not in page


def test_the_policy_names_the_script_of_ones_own_and_still_no_other():
    page = ts.views.own_view("t", [1], script=SCRIPT).html()
    (policy,) = re.findall(r'Security-Policy" content="([^"]+)"', page)
    assert len(re.findall("'sha256-", policy)) == 3, "ours, one's own, the style"
    assert "unsafe" not in policy
    assert Tags(page).scripts == 2


@pytest.mark.parametrize("end", ["</script>", "</SCRIPT ", "<!-- x", "<script>"])
def test_a_script_that_would_end_its_element_is_refused(end):
    with pytest.raises(SettingError, match=r"takes for the end of it\. Put texts into data="):
        ts.views.own_view("t", [], script=f'(root) => root.append("{end}")')


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "got nothing to draw: expected one of script=, svg= and html="),
        ({"svg": SVG, "html": "<p>x"}, "got svg and html: expected one"),
        ({"svg": SVG, "data": [1]}, "data is for script=; svg= is drawn as it is"),
        ({"svg": "<svg><g></svg>"}, "svg= is not well-formed: mismatched tag"),
        ({"svg": "<b>x</b>"}, "svg= is a 'b'; expected an <svg> element"),
        ({"svg": '<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>'}, "declares entities"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(given, words):
    with pytest.raises(SettingError, match=re.escape(words)):
        ts.views.own_view("t", **given)


def test_data_that_are_no_json_are_refused_by_their_place():
    with pytest.raises(ShapeError, match=r"data\['rows'\]\[1\] is a set; expected numbers, texts"):
        ts.views.own_view("t", {"rows": [1, {2}]}, script=SCRIPT)


def test_an_image_is_kept_as_an_image():
    (text,) = (data_of(ts.views.own_view("t", svg=SVG).html())["base64"],)
    kept = base64.b64decode(text).decode()
    assert kept == SVG.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')


def test_html_keeps_what_is_harmless():
    found = nodes_of(
        '<table><tr><td colspan=2 style="color: #f00; text-align:right">a &lt; b<br>c</table>tail'
    )
    style = {"color": "#f00", "text-align": "right"}
    cell = ["td", {"colspan": "2", "style": style}, ["a < b", ["br", {}, []], "c"]]
    assert found == [["table", {}, [["tr", {}, [cell]]]], "tail"]
    cells = ["tr", {}, [["th", {}, ["1"]], ["td", {}, ["2"]]]]
    assert nodes_of("<table><tr><th>1<td>2<tr><th>1<td>2") == [["table", {}, [cells, cells]]]
    picture = "data:image/png;base64,AAAA"
    assert nodes_of(f'<img src="{picture}">') == [["img", {"src": picture}, []]]


HOSTILE = [
    "<script>window.HIT = 1</script>",
    "<p onclick='window.HIT = 1'>",
    "<a href='javascript:window.HIT = 1'>",
    "<img src='http://x.test/a.png' onerror='window.HIT = 1'>",
    "<img src='data:image/svg+xml;base64,AAAA'>",
    "<p style='background: url(http://x.test)'>",
    "<p style='color: red; background-color: image-set(\"http://x.test\" 1x); position: fixed'>",
    "<iframe src='http://x.test'>hidden</iframe>",
    "<svg><script>window.HIT = 1</script></svg>",
    "<style>* { color: red }</style>",
    "<meta http-equiv=refresh content='0;url=http://x.test'>",
    "<form action='http://x.test'><input name=a>",
    "<base href='http://x.test'><link rel=stylesheet href='http://x.test'>",
    "<p id=view class=tip>",
    "<math><mtext><b style='x:y'>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_html_loses_what_runs_loads_or_leads_away(text):
    said = json.dumps(nodes_of(text))
    for word in ("HIT", "x.test", "script", "url", "position", "id", "class", "base64", "hidden"):
        assert word not in said


def test_html_that_is_nested_without_end_is_flat_beyond_a_depth():
    found, depth = nodes_of("<b>" * 5000 + "x"), 0
    while isinstance(found[0], list):
        found, depth = found[0][2], depth + 1
    assert found == ["x"]
    assert depth < 64


def test_a_report_has_views_of_ones_own_behind_ours(one):
    mine = ts.views.own_view("Norms", [{"name": "0", "value": 1}], script=SCRIPT)
    again = ts.views.own_view("Again", [], script=SCRIPT)
    report = ts.report(bank_of(one), views=[mine, again, ts.views.own_view("Plot", svg=SVG)])
    sections = report.overview["sections"]
    assert [s["name"] for s in sections] == ["map", "view-1", "view-2", "view-3"]
    page = report.html()
    assert page.count(SCRIPT[:-1]) == 1, "one script for both"
    assert set(Tags(page).found) == OURS
