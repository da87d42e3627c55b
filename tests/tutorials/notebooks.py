"""Tutorials with what they print: run one, and keep its outputs or compare them with what is kept.

    python tests/tutorials/notebooks.py store tutorials/01_first_vectors.py
    python tests/tutorials/notebooks.py check tutorials/01_first_vectors.py --out executed.ipynb

`store` writes the notebook beside the script. Views become pictures there, since a frame of theirs
weighs a megabyte. `check` runs the script as a notebook and fails where its text is not the stored
one. Numbers may differ by two units of their last digit, and columns by their width: another
processor adds up in another order.
"""

import argparse
import difflib
import html
import io
import re
import sys
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import torch
from nbclient import NotebookClient
from PIL import Image

from tl_steer.views.drawn import drawn

MOST_BYTES = 400_000
WIDEST = 900  # pixels of a picture
_FRAME = re.compile(r'<iframe [^>]*srcdoc="([^"]*)"')
# Progress bars, and what tqdm says where there are no widgets to draw them with.
_NOISE = re.compile(
    r"it/s\]|\?it/s|s/it\]|TqdmWarning|notebook_tqdm|^\s*$|^Failed to load .*torchao"
)
_NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]\d\d?)?")
_RULES = re.compile(r"\s+|[━─═]+")


def executed(script: Path) -> Any:
    """The script as a notebook, run to its end whatever a cell raises."""
    notebook = jupytext.read(script, fmt="py:percent")
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"  # random ones would differ at every run
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", allow_errors=True)
    client.execute(cwd=str(script.parent))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":
            cell.outputs = _tidy(cell.outputs)
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["processor"] = processor()
    notebook.metadata.pop("widgets", None)
    return notebook


def _tidy(outputs: list[Any]) -> list[Any]:
    """Neighbouring prints together, and no progress bars."""
    kept: list[Any] = []
    for output in outputs:
        if any("widget-view" in kind for kind in output.get("data", ())):
            continue
        if output.output_type == "stream":
            if output.name == "stderr" and all(map(_NOISE.search, re.split("[\r\n]", output.text))):
                continue
            if kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
                continue
        kept.append(output)
    return kept


def light(notebook: Any) -> Any:
    """The same with a picture in the place of every frame."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            found = _FRAME.search(data.get("text/html", ""))
            if found:
                del data["text/html"]
                data["image/png"] = b64encode(_picture(html.unescape(found[1]))).decode("ascii")
    return notebook


def _picture(page: str) -> bytes:
    image = Image.open(io.BytesIO(drawn(page, ".png"))).convert("RGB")
    image.thumbnail((WIDEST, 10 * WIDEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.quantize(64).save(file, "png", optimize=True)
    return file.getvalue()


def raised(notebook: Any) -> list[str]:
    """What went wrong in it."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return ["\n".join(o.traceback) for o in outputs if o.output_type == "error"]


def texts(notebook: Any) -> list[str]:
    """What every code cell said, in words."""
    return [
        "\n".join(map(_said, cell["outputs"]))
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def _said(output: Any) -> str:
    if output["output_type"] == "stream":
        return _joined(output["text"])
    return _joined(output.get("data", {}).get("text/plain", ""))


def _joined(text: Any) -> str:
    """A notebook's file has texts as lists of lines."""
    return text if isinstance(text, str) else "".join(text)


def alike(stored: str, found: str) -> bool:
    """Whether two texts say the same, but for rounding and the width of columns."""
    one, other = (_RULES.sub(lambda m: m[0][0].strip() or " ", t.strip()) for t in (stored, found))
    if _NUMBER.sub("0", one) != _NUMBER.sub("0", other):
        return False
    return all(map(_near, _NUMBER.findall(one), _NUMBER.findall(other)))


def _near(one: str, other: str) -> bool:
    if one == other:
        return True
    if "." not in one + other:  # counts are counts
        return False
    digits = min(len(n.partition("e")[0].partition(".")[2]) for n in (one, other))
    unit = max(10.0 ** (int(n.partition("e")[2] or 0) - digits) for n in (one, other))
    return abs(float(one) - float(other)) <= 2.001 * unit


def differences(stored: Any, found: Any) -> list[str]:
    """Of every cell whose text is another one, the lines."""
    pairs = enumerate(zip(texts(stored), texts(found), strict=True))
    told = []
    for i, (one, other) in pairs:
        if not alike(one, other):
            lines = difflib.unified_diff(
                one.splitlines(), other.splitlines(), "stored", "found", n=0, lineterm=""
            )
            told += [f"code cell {i}:", *lines]
    return told


def processor() -> str:
    """What decides in which order numbers are added up: vector units, and the kind of processor."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *names[:1]])


def comparable(stored: Any, found: Any) -> bool:
    """Whether both ran on the same kind of processor."""
    known = [notebook["metadata"].get("processor") for notebook in (stored, found)]
    return known[0] == known[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("store", "check"))
    parser.add_argument("script", type=Path)
    parser.add_argument("--out", type=Path, help="where the notebook goes as it was run")
    asked = parser.parse_args()
    beside = asked.script.with_suffix(".ipynb")
    found = executed(asked.script)
    nbformat.write(found, asked.out or Path(tempfile.gettempdir()) / beside.name)
    if wrong := raised(found):
        sys.exit("\n".join(wrong))
    if asked.what == "store":
        nbformat.write(light(found), beside)
        size = beside.stat().st_size
        print(f"{beside}: {size / 1000:.0f} kB")
        sys.exit(f"more than {MOST_BYTES / 1000:.0f} kB" if size > MOST_BYTES else 0)
    stored = nbformat.read(beside, as_version=4)
    if told := differences(stored, found):
        said = "\n".join([f"{beside.name} says something else:", *told])
        if comparable(stored, found):
            sys.exit(f"{said}\n{Path(__file__).name} store {asked.script} stores what it says now.")
        print(f"{said}\nIt was stored on another kind of processor.")


if __name__ == "__main__":
    main()
