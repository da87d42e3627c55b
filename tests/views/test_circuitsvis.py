"""CircuitsVis's components as values: whose numbers they get, and how its script comes along."""

import base64
import hashlib
import re
import subprocess
import sys
import zlib
from pathlib import Path

import circuitsvis as theirs
import pytest
import torch
from test_views import ATTACKS, inspection, poisoned

import tl_steer as ts
from tl_steer.errors import SettingError, ShapeError

COMPONENTS = {
    "attention_heads": ("difference", "steered", "unsteered"),
    "attention_patterns": ("difference", "steered", "unsteered"),
    "colored_tokens": ("kl", "difference", "steered", "unsteered"),
    "token_log_probs": ("steered", "unsteered"),
    "topk_tokens": ("difference", "steered", "unsteered"),
    "text_neuron_activations": (),
}


def component(name, seen, vector, **settings):
    return getattr(ts.views.circuitsvis, name)(seen, vector, **settings)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_has_the_numbers_of_our_view_of_them(one, name):
    seen = inspection(one)
    ours = {
        "attention_change": ts.views.attention_change(seen, 2, heads=8),
        "logit_change": ts.views.logit_change(seen, 2),
        "likelihood": ts.views.likelihood(seen, 2),
        "residual_response": ts.views.residual_response(seen, 2),
    }
    for which in COMPONENTS[name]:
        data = component(name, seen, 2, which=which).data
        assert (data["component"], data["which"]) == (name, which)
    view = component(name, seen, 2)
    assert view.circuitsvis
    assert view.data["panels"]
    for kind, data in view.data["panels"].items():
        assert data == ours[kind].data
        assert set(ours[kind].lines) <= set(view.lines)


def test_likelihood_holds_what_was_measured(one):
    seen = inspection(one)
    data = ts.views.likelihood(seen, 1).data
    assert data["tokens"] == list(seen.tokens)
    for name, row in (("unsteered", 0), ("steered", 2)):
        run = data[name]
        assert run["log_prob"] == pytest.approx(seen.next_lp[row].tolist(), rel=1e-3)
        assert run["rank"] == seen.next_rank[row].tolist()
        assert len(run["words"]) == len(seen.tokens), "what may follow the prompt is there as well"
        shown = torch.tensor(run["log_probs"])
        torch.testing.assert_close(shown, seen.likely_lp[row], rtol=1e-3, atol=1e-4)
        assert run["words"][-1] == [seen.word(int(token)) for token in seen.likely[row, -1]]


@pytest.mark.parametrize("name", COMPONENTS)
def test_what_cannot_be_shown_is_refused(one, name):
    seen = inspection(one)
    with pytest.raises(SettingError, match="Vector 9 was not inspected"):
        component(name, seen, 9)
    if COMPONENTS[name]:
        with pytest.raises(ShapeError, match="which"):
            component(name, seen, 0, which="both")
    with pytest.raises(ShapeError, match="which"):
        ts.views.circuitsvis.token_log_probs(seen, 0, which="difference")


@pytest.mark.parametrize("name", COMPONENTS)
def test_attacks_stay_in_the_data(one, name):
    view = component(name, poisoned(one), 1)
    page = view.html()
    assert ATTACKS[0] not in page
    assert ATTACKS[1] not in page
    assert "\u202e" not in page + repr(view)


def test_the_script_is_the_installed_package_s_and_comes_deflated(one):
    page = component("colored_tokens", inspection(one), 0).html()
    path = Path(theirs.__file__).parent / "dist" / "cdn" / "iife.js"
    packed = re.search(r'<script type="text/plain" id="circuitsvis">([^<]*)</script>', page)
    text = zlib.decompress(base64.b64decode(packed.group(1)))
    assert text == path.read_bytes()
    digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
    policy = re.search(r'Security-Policy" content="([^"]+)"', page).group(1)
    assert f"'sha256-{digest}'" in policy
    assert len(packed.group(1)) < 0.4 * len(text)


def test_the_script_is_read_when_a_page_is_made(one, tmp_path):
    inspection(one).save(tmp_path / "seen.safetensors")
    code = f"""
import sys
import tl_steer as ts
seen = ts.inspection.load_inspection({str(tmp_path / "seen.safetensors")!r})
view = ts.views.circuitsvis.attention_heads(seen, 0)
assert "circuitsvis" not in sys.modules
view.html()
assert "circuitsvis" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
