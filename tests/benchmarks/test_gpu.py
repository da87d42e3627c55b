"""The parts of the GPU benchmark that can be wrong without a GPU."""

import pytest
from gpu import measured, text
from gpu_bench import Bench
from gpu_cost import fitted
from gpu_models import SHAPES


def test_a_step_counts_two_operations_a_weight_and_token_each_way():
    seven = SHAPES["7b"]
    per_block = 4 * 4096 * 4096 + 3 * 4096 * 11008
    assert seven.weights == 10 * per_block
    assert seven.flops(512, 27) == (2 + 2) * 10 * per_block * 512 * 27


def test_the_fit_finds_costs_that_were_put_in_and_predicts_what_it_did_not_see():
    points = [(2, 10, 4, 16), (4, 10, 4, 16), (2, 20, 8, 32), (8, 5, 2, 64), (3, 7, 5, 48)]
    lines = []
    for blocks, tokens, vectors, width in points:
        flops = blocks * tokens * vectors * width**2
        kept = 30 * blocks * tokens * vectors * width
        seconds = 0.002 * blocks + flops / 5e9
        point = (blocks, tokens, vectors, width)
        lines.append({"point": point, "seconds": seconds, "flops": flops, "kept_bytes": kept})
    found = fitted(lines)
    assert found["launch_s_a_block"] == pytest.approx(0.002)
    assert found["rate_tflops"] == pytest.approx(0.005)
    assert found["kept_bytes_a_number"] == 30
    assert found["seconds_off"] == pytest.approx(0, abs=1e-9)


def test_a_row_that_fails_or_takes_too_long_is_written_down_and_no_more():
    def broken(_):
        raise RuntimeError("out of memory")

    def endless(_):
        while True:
            pass

    bench = Bench("cpu", True)
    assert measured(bench, ("a", broken, 5), 5)["error"] == "RuntimeError: out of memory"
    # At most its own time and ten seconds, of which a negative limit leaves next to nothing.
    assert "TooLong" in measured(bench, ("b", endless, -9.99), 5)["error"]


def test_the_table_has_the_newest_line_of_every_row():
    card = {"card": "a card", "torch": "2"}
    lines = [{"row": "x", "step_s": 1, **card}, {"row": "x", "step_s": 2, "waits": 3, **card}]
    shown = text(lines)
    assert "| x |  |  | 2 |" in shown
    assert '- x: {"waits": 3}' in shown
