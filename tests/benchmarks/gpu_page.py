"""What `gpu.py --page` writes: a reading of the rows, searches, and single steps."""

from collections.abc import Sequence
from typing import Any

from page import table

Line = dict[str, Any]

# Published seconds, on other cards than ours.
DCT, MELBO = 37.5, 84.0
SEARCHES = {
    "7b bf16 dct": f"{DCT} (H100, fp32)",
    "7b tf32 dct": f"{DCT} (H100, fp32)",
    "7b fp32 dct": f"{DCT} (H100, fp32)",
    "7b bf16 power": "",
    "7b fp32 power": "",
    "1.8b bf16 melbo": f"{MELBO:.0f} (5090, bf16)",
    "1.8b bf16 melbo graph": f"{MELBO:.0f} (5090, bf16)",
}
STEPS = {
    "graph": "from a CUDA graph (`Replayed`)",
    "compiled": "hooked blocks under `torch.compile`",
    "compiled graphs": "the same, mode `reduce-overhead`",
    "plain": "bare transformers blocks, no hooks",
    "plain compiled": "bare blocks under `torch.compile`",
    "plain graphs": "bare blocks, mode `reduce-overhead`",
}


def page(lines: Sequence[Line]) -> str:
    """The newest of every row, as text and tables; rows that failed say why at the end."""
    rows = {line["row"]: line for line in lines}
    good = {name: line for name, line in rows.items() if "error" not in line}
    failed = [
        f"- {name} failed: {line['error']}" for name, line in rows.items() if name not in good
    ]
    parts = [head(lines, good), reading(good), searches(good), single(good), "\n".join(failed)]
    return "\n\n".join(part for part in parts if part)


def head(lines: Sequence[Line], rows: dict[str, Line]) -> str:
    cards = sorted({f"{line['card']}, torch {line['torch']}" for line in lines})
    said = f"One {'; one '.join(cards)}; random weights, one prompt of 27 tokens."
    if "ceilings" in rows:
        top = rows["ceilings"]
        said += (
            " Measured products of 8192 x 8192 matrices: "
            f"{top['bf16_tflops']:.0f} TFLOP/s in bf16, "
            f"{top['tf32_tflops']:.0f} in TF32, {top['fp32_tflops']:.0f} in fp32; "
            "shares below are of these."
        )
    return said


def reading(rows: dict[str, Line]) -> str:
    """The figures that were to be beaten, and what is in the way of better ones."""
    said = [part(rows) for part in (_dct, _melbo, _power, _way, _blocks)]
    return "\n".join(f"- {one}" for one in said if one)


def _dct(rows: dict[str, Line]) -> str:
    if not {"7b bf16 dct", "7b fp32 dct"} <= set(rows):
        return ""
    half, full = (rows[f"7b {kind} dct"]["all_steps_s"] for kind in ("bf16", "fp32"))
    return (
        f"512 DCT factors on the 7B shape take {half:.1f} s in bf16 and {full:.1f} s in fp32. "
        f"Published are {DCT} s in fp32, on an H100: {DCT / full:.1f} times ours in fp32 and "
        f"{DCT / half:.0f} times ours in bf16. The cards differ, so only "
        "part of that is the code's."
    )


def _melbo(rows: dict[str, Line]) -> str:
    if not {"1.8b bf16 melbo", "1.8b bf16 melbo graph"} <= set(rows):
        return ""
    plain, graph = rows["1.8b bf16 melbo"], rows["1.8b bf16 melbo graph"]
    return (
        f"100 MELBO vectors of 1200 steps on the 1.8B shape take {plain['all_steps_s']:.0f} s with "
        f"kernels launched one by one ({plain['steps']}, the rest extrapolated) and "
        f"{graph['all_steps_s']:.0f} s replayed from a CUDA graph ({graph['steps']}). "
        "Published are "
        f"{MELBO:.0f} s, on a 5090: {MELBO / plain['all_steps_s']:.2f} and "
        f"{MELBO / graph['all_steps_s']:.1f} times ours; again, other cards."
    )


def _power(rows: dict[str, Line]) -> str:
    note = rows.get("1.8b bf16 power", {}).get("note", "")
    return note and (
        f"`Power` on the same problem, against the total objective that MELBO had reached: {note}. "
        "Below 1 is not all of it: `Power` stopped rising under MELBO's total here."
    )


def _way(rows: dict[str, Line]) -> str:
    """Whether launches are in the way: a graph has none between kernels."""
    said = []
    for name, size in (("7b bf16", "7B"), ("1.8b bf16", "1.8B")):
        if not {f"{name} graph", f"{name} profile"} <= set(rows):
            continue
        graph, seen = rows[f"{name} graph"], rows[f"{name} profile"]
        said.append(
            f"One step of the {size} shape, {seen['launches']} launches, takes "
            f"{graph['launched_s']:.3f} s, and {graph['step_s']:.3f} s from a CUDA graph "
            f"(ratio {graph['launched_s'] / graph['step_s']:.2f}; values differ by "
            f"{graph['values_off']:g})."
        )
    return "\n- ".join(said)


def _blocks(rows: dict[str, Line]) -> str:
    names = ("graph", "compiled", "plain", "plain graphs")
    if not {f"1.8b bf16 {name}" for name in names} <= set(rows):
        return ""
    graph, hooked, plain, best = (rows[f"1.8b bf16 {name}"] for name in names)
    times = [x["launched_s"] for n, x in rows.items() if "1.8b" in n and "launched_s" in x]
    return (
        "Half of the matrix-product rate is not reached at the 1.8B shape: "
        f"{graph['share']:.2f} of it from a graph. `torch.compile` of the hooked blocks gains "
        f"nothing ({hooked['step_s']:.3f} s). Bare transformers blocks, which have fewer kernels "
        f"and no hooks, take {plain['step_s']:.3f} s, and compiled into graphs "
        f"{best['step_s']:.3f} s, {best['share']:.2f} of the rate: what is left is the price of "
        f"hook points. Launched steps vary with the host: {min(times):.3f} to {max(times):.3f} s."
    )


def searches(rows: dict[str, Line]) -> str:
    columns = ["search", "published, s", "s", "steps", "s a step", "vector-steps / s", "TFLOP/s",
               "of the card", "peak GB"]  # fmt: skip
    names = ("all_steps_s", "steps", "step_s", "vector_steps_s", "tflops", "share", "peak_gb")
    cells = [
        [_what(name), published, *(shown(rows[name].get(key, "")) for key in names)]
        for name, published in SEARCHES.items()
        if name in rows
    ]
    return table(columns, cells) if cells else ""


def shown(value: object) -> object:
    """Four digits."""
    return f"{value:.4g}" if isinstance(value, float) else value


def _what(name: str) -> str:
    shape, dtype, method, *more = name.split()
    vectors = {"7b": 512, "1.8b": 100}[shape]
    return f"{shape.upper()} {dtype}, {vectors} x {method}{', `Replayed`' if more else ''}"


def single(rows: dict[str, Line]) -> str:
    """One step of each shape, as it is and in other ways."""
    cells: list[list[object]] = []
    for name in ("7b bf16", "1.8b bf16"):
        if (graph := rows.get(f"{name} graph")) is not None:
            share = graph["share"] * graph["step_s"] / graph["launched_s"]
            cells.append([name, "as it is", graph["launched_s"], round(share, 3)])
        for kind, what in STEPS.items():
            if (row := rows.get(f"{name} {kind}")) is not None:
                cells.append([name, what, row["step_s"], row.get("share", "")])
        for size, figures in rows.get(f"{name} passes", {}).items():
            if size.endswith("a pass"):
                cells.append([name, f"{size} ({figures[2]} GB)", figures[0], figures[1]])
        fused = rows.get(f"{name} fused prompts", {})
        for kind, what in (("apart", "in rows"), ("one row", "fused in one row")):
            if kind in fused:
                told = f"four prompts with 20 of 27 tokens in common, {what}"
                cells.append([name, told, fused[kind], ""])
    return (
        "One step:\n\n"
        + table(["shape", "how", "s", "of the card"], [[*map(shown, x)] for x in cells])
        if cells
        else ""
    )
