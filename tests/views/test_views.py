"""Views and the report as values: what is in them, how they are escaped, how large they get."""

import base64
import dataclasses
import functools
import json
import re
import sys
import urllib.request
from html.parser import HTMLParser

import pytest
import torch
from conftest import PROMPTS, bank_of
from packed import inflated, read
from tiny_monitor import monitor_without_a_model, scores_of, synthetic

import tl_steer as ts
from tl_steer.banks.generations import Generations
from tl_steer.errors import SettingError
from tl_steer.inspection.layout import AXES
from tl_steer.radii.band import Dose, DoseResponse
from tl_steer.views.bank import clustered
from tl_steer.views.page import document, embedded, rounded
from tl_steer.views.rows import table_rows

PROMPT = PROMPTS[0]
INSIDE = (
    ts.views.attention_change,
    ts.views.logit_change,
    ts.views.likelihood,
    ts.views.logit_attribution,
    ts.views.residual_response,
    ts.views.steered_tokens,
)
ATTACKS = (
    "</script><script>window.HIT = 1</script>",
    "<img src=x onerror='window.HIT = 1'>",
    "<s>",
    "<!--",
    "\u202edrow\u202c",
    "\ud800",
    "&lt;b&gt;",
    "\u2028'\"`${1}",
    "\x1b[31m",
    "javascript:window.HIT=1",
)


def inspection(one, **changes):
    seen = ts.inspect(one, bank_of(one), PROMPT)
    return dataclasses.replace(seen, **changes)


def poisoned(one):
    """An inspection in which every text is an attack."""
    seen = inspection(one)

    def texts(n):
        return tuple(ATTACKS[i % len(ATTACKS)] for i in range(n))

    return dataclasses.replace(
        seen,
        prompt=" ".join(ATTACKS),
        model=ATTACKS[0],
        tokens=texts(len(seen.tokens)),
        labels=texts(len(seen)),
        words={word: ATTACKS[word % len(ATTACKS)] for word in seen.words},
        kl=torch.where(seen.kl > 0, torch.nan, seen.kl),
        response=seen.response / 0,
    )


def poisoned_generations(n):
    return Generations(
        prompts=(" ".join(ATTACKS), "two"),
        unsteered=(ATTACKS[0], ATTACKS[1]),
        texts=tuple((ATTACKS[i % len(ATTACKS)], "</title></style>") for i in range(n)),
        labels=tuple(ATTACKS[i % len(ATTACKS)] for i in range(n)),
        settings={"<b>": "<i>"},
    )


def doses():
    made = []
    for i, share in enumerate((0.1, 0.2, 0.4, 0.8)):
        for sign, control in ((1, False), (-1, False), (1, True)):
            for vector in range(3):
                made.append(
                    Dose(
                        radius=10 * share,
                        share=share,
                        sign=sign,
                        vector=vector,
                        prompt=0,
                        control=control,
                        kl=(1 + vector) * share * (0.3 if control else 1),
                        surprise=share * 5,
                        repetition=0.1 * i,
                        changed=i > 0,
                        text=ATTACKS[vector],
                    )
                )
    return DoseResponse(tuple(made), "blocks.1.hook_resid_post", 10.0, 0.4, 3.0, ("p",), ("u",), {})


SWEEP = [
    {"vector": i, "label": ATTACKS[i], "prevalence": 0.2 * i, "prevalence_low": 0.1 * i}
    | {"prevalence_high": 0.3 * i, "consistency": 1 - 0.1 * i}
    for i in range(4)
]
PAIRS = [
    {"source": source, "target": target, "radius": f"{ATTACKS[1]}{radius}", "method": "power"}
    | {"gain": 0.5 * i if i != 4 else None, "error": None if i != 4 else ATTACKS[0]}
    for i, (source, target, radius) in enumerate(
        [
            ("2", ATTACKS[0], 1),
            ("2", ATTACKS[0], 2),
            ("10", "blocks.3.hook_resid_post", 1),
            ("10", "blocks.12.hook_resid_post", 1),
            ("2", "blocks.12.hook_resid_post", 2),
        ]
    )
]
ALERTS = {
    "token": [*ATTACKS, "quiet"],
    "score": [0.1 * i for i in range(len(ATTACKS))] + [float("nan")],
    "threshold": [0.55] * (len(ATTACKS) + 1),
    "vector": [None] * len(ATTACKS) + [3],
}

# As an audit log has them.
ALERT_LOG = [
    {"request": f"r{i}{ATTACKS[i]}", "kind": "known perturbation", "vector": i % 3, "p_value": 0.01}
    | {"label": ATTACKS[i], "threshold": 0.5, "trace": [0.1, 0.4, 0.3 * i]}
    | {"tokens": [{"position": 2, "id": 7, "text": ATTACKS[i]}]}
    for i in range(2, 6)
] + [
    {"request": "moved", "kind": "drift", "vector": None, "p_value": 0.001, "label": ""}
    | {"threshold": 100.0, "trace": [], "tokens": []}
]


@functools.cache
def monitored():
    """A monitor beside a control whose name is an attack, and a log of attacks."""
    monitor = monitor_without_a_model()
    scores = tuple(scores_of(monitor, synthetic(30, seed)) for seed in (1, 2))
    log = [{"at": 1.7e9 + 4000 * i, "alpha": 0.05} | row for i, row in enumerate(ALERT_LOG)]
    log.append({"request": "x", "kind": ATTACKS[1], "at": 1.7e9, "trace": [], "alpha": 0.05})
    return ts.views.monitor_view(
        monitor, clean=scores[0], steered=scores[1], controls={ATTACKS[0]: scores}, log=log
    )


def all_views(one, seen=None):
    """One of every kind."""
    seen = seen or inspection(one)
    selection = ts.banks.Selection(
        (1, 2), (0.9, 0.5), (0.7, 0.4), (), (0.3,), (0.2,), 0.0, 0.1, (ATTACKS[0], "b"), {}
    )
    return [
        *(view(seen, 1) for view in INSIDE),
        ts.views.generations(poisoned_generations(4)),
        ts.views.dose_response(doses()),
        ts.views.bank_map(bank_of(one).label(1, ATTACKS[1])),
        ts.views.selection_scores(selection),
        ts.views.sweep_view(SWEEP),
        ts.views.scan_view(PAIRS),
        ts.views.alerts_view(ALERTS),
        monitored(),
    ]


def full_report(one, seen=None, **more):
    bank = bank_of(one).label(0, ATTACKS[0])
    return ts.report(
        bank,
        inspections=[seen or inspection(one)],
        generations=poisoned_generations(len(bank)),
        control=poisoned_generations(2),
        doses=doses(),
        sweep=SWEEP,
        alerts=ALERT_LOG,
        **more,
    )


def unpacked(packed):
    return torch.tensor(list(base64.b64decode(packed["u8"]))).reshape(packed["shape"])


def test_attention_of_whole_heads_is_in_a_page_to_a_255th(one):
    seen = inspection(one)
    data = ts.views.attention_change(seen, 2, heads=3).data
    change = torch.tensor(data["change"])
    torch.testing.assert_close(change, seen.attention_change[2], rtol=1e-2, atol=0)
    strongest = change.flatten().argsort(descending=True)[:3].tolist()
    assert [head["head"] for head in data["kept"]] == [list(divmod(i, 3)) for i in strongest]
    below = torch.ones(len(seen.tokens), len(seen.tokens)).tril().bool()
    for k, head in enumerate(data["kept"]):
        for run, name in enumerate(("unsteered", "steered")):
            true = seen.patterns[2, k, run].float()[below]
            torch.testing.assert_close(unpacked(head[name]) / 255, true, rtol=0, atol=1 / 255)
    assert len(ts.views.attention_change(seen, 2, heads="all").data["kept"]) == 12
    with pytest.raises(SettingError, match="heads=-1"):
        ts.views.attention_change(seen, 2, heads=-1)


def test_the_last_token_s_attention_is_in_a_page_for_every_head(one):
    seen = inspection(one)
    last = ts.views.attention_change(seen, 1, heads=0).data["last"]
    base, moved = unpacked(last["unsteered"]), unpacked(last["moved"])
    for run, rows in enumerate((base, (base + moved) % 256)):
        true = seen.last_rows[1, :, :, run].float()
        torch.testing.assert_close(rows / 255, true, rtol=0, atol=1 / 255)
    assert last["gone"] == []
    old = dataclasses.replace(seen, last_rows=None)
    assert ts.views.attention_change(old, 1).data["last"] is None


def test_a_report_has_unsteered_attention_once_for_all_vectors(one):
    report = ts.report(bank_of(one), inspections=[inspection(one)])
    packed = [inflated(report.blocks[f"v{v}.attention_change.0"])["data"]["last"] for v in range(4)]
    assert len({rows["unsteered"]["u8"] for rows in packed}) == 1
    assert all(len(rows["unsteered"]["u8"]) < 8 for rows in packed), "a number of a word"
    data = read(report, "v2.attention_change.0")["data"]
    assert data == json.loads(embedded(ts.views.attention_change(inspection(one), 2, heads=8).data))


def test_attention_that_is_no_number_is_said_to_be_none(one):
    seen = inspection(one)
    patterns, rows = seen.patterns.clone(), seen.last_rows.clone()
    patterns[0, 1, 1, 3] = torch.nan
    rows[0, 2, 1, 1] = torch.nan
    data = ts.views.attention_change(
        dataclasses.replace(seen, patterns=patterns, last_rows=rows), 0
    ).data
    assert [head["gone"] for head in data["kept"][:3]] == [[], [[1, 3]], []]
    assert data["last"]["gone"] == [[2, 1, 1]]


def test_attention_has_random_vectors_band_and_refuses_another_prompt_s(one):
    seen = inspection(one)
    control = ts.inspect(one, ts.random_bank(bank_of(one), n=5), PROMPT)
    band = ts.views.attention_change(seen, 0, control=control).data["band"]
    low, high = control.attention_change.amin(0), control.attention_change.amax(0)
    torch.testing.assert_close(torch.tensor(band), torch.stack([low, high]), rtol=1e-2, atol=0)
    with pytest.raises(SettingError, match="its prompt is"):
        other = ts.inspect(one, ts.random_bank(bank_of(one), n=5), PROMPTS[1])
        ts.views.attention_change(seen, 0, control=other)


def test_logit_change_holds_what_was_measured(one):
    seen = inspection(one)
    data = ts.views.logit_change(seen, 0).data
    assert data["kl"] == pytest.approx(seen.kl[0].tolist(), rel=1e-2)
    word, before, after = data["gained"][-1][0]
    assert word == seen.word(int(seen.gained[0, -1, 0]))
    assert (before, after) == pytest.approx(tuple(seen.gained_p[0, -1, 0].tolist()), rel=1e-2)


def test_attribution_in_the_view_adds_up(one):
    data = ts.views.logit_attribution(inspection(one), 3).data
    whole = torch.tensor(data["direct"]).sum(dim=(0, 1))
    moved = torch.tensor(data["moved"])
    torch.testing.assert_close(whole, moved, rtol=1e-2, atol=1e-2)


def test_generations_say_how_many_texts_changed():
    found = ts.views.generations(poisoned_generations(2))
    assert "3 of 4 continuations changed" in repr(found)


def test_long_prompts_and_many_heads_show_what_changes_most(one):
    seen = inspection(one)
    n, heads = 512, 32
    moved = torch.zeros(4, 12, 2, n, n)
    moved[..., 0] = 1
    moved[1, :, 1, 500, 0], moved[1, :, 1, 500, 77] = 0, 1
    kept = torch.stack([torch.arange(12), torch.arange(12)], dim=1).expand(4, 12, 2)
    long = dataclasses.replace(
        seen,
        tokens=("tok",) * n,
        ids=torch.zeros(n, dtype=torch.long),
        steered=torch.ones(n, dtype=torch.bool),
        attention_change=torch.rand(4, 32, heads),
        last_rows=torch.rand(4, 32, heads, 2, n).half(),
        kept=kept,
        patterns=moved.half(),
        kl=torch.rand(4, n),
        **{name: getattr(seen, name)[:, :1].expand(4, n, -1) for name in ("gained", "lost")},
        **{
            f"{k}_p": getattr(seen, f"{k}_p")[:, :1].expand(4, n, -1, 2) for k in ("gained", "lost")
        },
        likely=seen.likely[:, :1].expand(5, n, -1),
        likely_lp=seen.likely_lp[:, :1].expand(5, n, -1),
        next_lp=torch.rand(5, n - 1),
        next_rank=torch.zeros(5, n - 1, dtype=torch.long),
        response=torch.rand(4, 33, n),
        clean=torch.rand(33, n),
        added=torch.rand(4, n),
        entering=torch.rand(n),
        direct=torch.rand(4, 33, 3, seen.toward.shape[1]),
        heads=torch.rand(4, 32, heads, seen.toward.shape[1]),
        **{
            name: getattr(seen, name)[:, :1].expand(4, 33, *getattr(seen, name).shape[2:])
            for name, axes in AXES.items()
            if "stream read" in axes
        },
    )
    attention = ts.views.attention_change(long, 1)
    assert {500, 77, 0} <= set(attention.data["places"])
    assert len(attention.data["tokens"]) == 64
    assert attention.data["places"][-1] == n - 1, "the last token is always shown"
    assert attention.data["last"]["unsteered"]["shape"] == [32, heads, 64]
    assert "64 of 512 tokens" in repr(attention)
    for view in INSIDE:
        assert len(view(long, 1).html()) < 5_000_000, view.__name__


def test_one_token_can_be_drawn(one):
    seen = ts.inspect(one, bank_of(one), torch.tensor([9]))
    for view in INSIDE:
        assert view(seen, 0).html()


class Tags(HTMLParser):
    """Every tag and attribute of a page, as a browser's parser would see them."""

    def __init__(self, page):
        super().__init__()
        self.found, self.scripts = [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)
        self.scripts += tag == "script" and not (
            {("type", "application/json"), ("type", "text/plain")} & set(attributes)
        )
        assert not [name for name, _ in attributes if name.startswith("on")], attributes
        assert not [name for name, _ in attributes if name in ("src", "href")], attributes


OURS = {"html", "head", "meta", "title", "style", "body", "main", "noscript", "script"}


def test_attacks_stay_text_in_every_view(one):
    for view in all_views(one, poisoned(one)):
        page = view.html()
        tags = Tags(page)
        assert set(tags.found) == OURS
        assert tags.scripts == 1 + view.circuitsvis
        page.encode("utf-8")
        assert "\u202e" not in page
        assert "\\ud800" not in page.replace("\\\\ud800", "")
        json.loads(re.search(r'id="view">(.*?)</script>', page, re.DOTALL).group(1))
        assert "\x1b" not in repr(view)
        assert "\u202e" not in repr(view)


def test_attacks_stay_text_in_the_report(one):
    page = full_report(one, poisoned(one), title="</title><b>" + ATTACKS[0]).html()
    tags = Tags(page)
    assert set(tags.found) == OURS
    assert tags.scripts == 1
    page.encode("utf-8")


def test_json_blocks_hold_no_markup_and_no_nan():
    text = embedded({"<k>": ["</script>", "<!--", "&", float("nan"), float("inf"), "\ud800"]})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {
        "<k>": ["</script>", "<!--", "&", None, "inf", "\\ud800"],
    }


def test_the_policy_allows_only_the_scripts_of_the_page(one):
    page = ts.views.attention_change(inspection(one), 0).html()
    policy = re.search(r'Security-Policy" content="([^"]+)"', page).group(1)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_page_says_nothing_of_the_network():
    page = document("t", {}, start="", circuitsvis=False)
    links = set(re.findall(r"https?://[^\s\"']+", page))
    assert links == {"http://www.w3.org/2000/svg"}


def test_a_view_in_a_notebook_is_a_closed_frame_without_access_to_it(one):
    bundle = ts.views.steered_tokens(inspection(one), 0)._repr_mimebundle_()
    html = bundle["text/html"]
    assert html.startswith("<iframe ")
    assert 'sandbox="allow-scripts allow-downloads"' in html
    assert html.count("<iframe") == html.count("</iframe>") == 1
    assert bundle["text/plain"].startswith("Tokens steered by vector 0\n  added at")
    assert ts.views.steered_tokens(inspection(one), 0)._repr_html_() != html


def test_views_need_no_model_and_ask_no_network(one, monkeypatch):
    seen = inspection(one)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("the network"))
    for view in all_views(one, seen):
        view._repr_html_()


def test_equal_responses_stand_side_by_side_in_the_map():
    rows = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.99, 0.01, 0], [0, -1, 0.02], [0, 0, 1]])
    unit = torch.nn.functional.normalize(rows, dim=1)
    order = clustered(unit @ unit.T)
    assert sorted(order) == list(range(5))
    assert abs(order.index(0) - order.index(2)) == 1
    assert abs(order.index(1) - order.index(3)) == 1


def test_a_map_of_random_vectors_has_no_responses(one):
    data = ts.views.bank_map(ts.random_bank(bank_of(one))).data
    assert data["responses"] is None
    assert len(data["directions"]) == 4


def test_tables_may_be_rows_columns_or_frames():
    class Frame:
        columns = ("vector", "x")

        def to_dict(self):
            raise AssertionError

        def __getitem__(self, name):
            return [1, 2]

    rows = [{"vector": 1, "x": 1}, {"vector": 2, "x": 2}]
    assert table_rows(rows) == table_rows({"vector": [1, 2], "x": [1, 2]}) == rows
    assert table_rows(Frame()) == rows
    with pytest.raises(SettingError, match="no rows"):
        table_rows([])
    with pytest.raises(SettingError, match="different lengths"):
        table_rows({"a": [1], "b": []})
    with pytest.raises(SettingError, match="holds numbers"):
        ts.views.sweep_view([{"vector": "a", "label": "b"}])
    with pytest.raises(SettingError, match="column 'score'"):
        ts.views.alerts_view([{"token": "a"}])


def test_pairs_are_in_the_order_of_layers_and_settings_that_differ_can_be_chosen():
    data = ts.views.scan_view(PAIRS).data
    assert data["sources"] == ["2", "10"]
    layers = ["blocks.3.hook_resid_post", "blocks.12.hook_resid_post"]
    assert data["targets"] == [*layers, ATTACKS[0]]
    assert data["quantities"] == ["gain"]
    assert [setting["name"] for setting in data["settings"]] == ["radius"]
    assert [cell["at"] for cell in data["cells"]] == [[0, 2], [0, 2], [1, 0], [1, 1], [0, 1]]
    assert [cell["values"] for cell in data["cells"]] == [[0.0], [0.5], [1.0], [1.5], [None]]
    assert data["cells"][4]["error"] == ATTACKS[0]
    assert "largest gain: 1.5, from 10 to blocks.12" in repr(ts.views.scan_view(PAIRS))


def test_a_scan_is_drawn_by_its_pairs():
    pair = ts.elicitation.Pair(
        "blocks.0.hook_resid_post", "blocks.2.hook_resid_post", (4.0,), 3.0, 6.0
    )
    data = ts.views.scan_view(ts.elicitation.Scan((pair,))).data
    assert (data["quantities"], data["cells"][0]["values"]) == (["gain", "directions"], [2.0, 1.0])
    with pytest.raises(SettingError, match="expected columns source and target"):
        ts.views.scan_view([{"source": "1", "gain": 2.0}])
    with pytest.raises(SettingError, match="holds numbers"):
        ts.views.scan_view([{"source": "1", "target": "2", "error": "x"}])
    many = [{"source": str(i), "target": "2", "gain": 1.0} for i in range(201)]
    with pytest.raises(SettingError, match="201 of source; a map shows 200"):
        ts.views.scan_view(many)


def test_a_report_refuses_results_of_something_else(one):
    bank, seen = bank_of(one), inspection(one)
    with pytest.raises(SettingError, match="of another bank"):
        ts.report(bank[:2], inspections=[seen])
    with pytest.raises(SettingError, match="of 3 vectors, and not the 4"):
        ts.report(bank, generations=poisoned_generations(3))
    with pytest.raises(SettingError, match="same prompts"):
        ts.report(bank, control=poisoned_generations(2))


def test_a_report_has_circuitsvis_once_and_only_where_it_is_needed(one):
    page = full_report(one).html()
    assert page.count('id="circuitsvis"') == 1
    without = ts.report(bank_of(one)).html()
    assert 'id="circuitsvis"' not in without
    assert len(without) < 320_000 < len(page)
    assert "4 vectors, 4 of them inspected" in repr(full_report(one))


def test_large_reports_show_fewer_heads_and_say_so(one, monkeypatch):
    # `tl_steer.views.report` is the function; the module of that name is behind it.
    monkeypatch.setattr(sys.modules["tl_steer.views.report"], "_MOST", 1)
    small = full_report(one)
    assert small.notes
    for vector in small.overview["rows"]:
        kept = read(small, f"v{vector['vector']}.attention_change.2")["data"]["kept"]
        assert len(kept) == 1, "attention never goes to nothing"
    told = [note.split(",")[0] for note in small.notes if not note.startswith("unchecked")]
    assert told == ["no words in the lens", "patterns of 1 head a vector"]


def test_numbers_are_rounded_to_what_eyes_need():
    assert rounded(torch.tensor([[1.23456, float("inf")]]), 3) == [[1.23, float("inf")]]
