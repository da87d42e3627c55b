"""The parts of the GPU benchmark that can be wrong without a GPU."""

from types import SimpleNamespace

from gpu import measured, text
from gpu_bench import Bench
from gpu_looks import by_kernel
from gpu_models import SHAPES
from gpu_page import page


def test_a_step_counts_two_operations_a_weight_and_token_each_way():
    seven = SHAPES["7b"]
    per_block = 4 * 4096 * 4096 + 3 * 4096 * 11008
    assert seven.weights == 10 * per_block
    assert seven.flops(512, 27) == (2 + 2) * 10 * per_block * 512 * 27


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


def test_the_page_reads_the_rows_and_says_which_searches_were_not_timed_whole():
    card = {"card": "a card", "torch": "2"}
    dct = {"all_steps_s": 3.0, "steps": 10, "step_s": 0.3, "vector_steps_s": 1.0, **card}
    lines = [
        {"row": "7b bf16 dct", "error": "no", **card},
        {"row": "7b bf16 dct", **dct},
        {"row": "7b fp32 dct", **dct | {"all_steps_s": 25.0, "steps": "2 of 10 steps timed"}},
        {"row": "1.8b bf16 graph", "share": 0.4, "step_s": 0.1, "launched_s": 0.2, **card},
        {"row": "1.8b bf16 plain", "error": "out of memory", **card},
    ]
    shown = page(lines)
    assert shown.startswith("One a card, torch 2;")
    assert "3.0 s in bf16 and 25.0 s in fp32" in shown
    assert "1.5 times ours in fp32 and 12 times ours in bf16" in shown
    assert "| 7B fp32, 512 x dct | 37.5 (H100, fp32) | 25 | 2 of 10 steps timed |" in shown
    assert "| 1.8b bf16 | as it is | 0.2 | 0.2 |" in shown
    assert shown.endswith("- 1.8b bf16 plain failed: out of memory")
    assert "7b bf16 dct failed" not in shown


def test_kernels_with_names_that_begin_alike_are_added_up():
    name = "elementwise_kernel<" + "x" * 60
    events = [
        SimpleNamespace(key=name + end, count=2, self_device_time_total=us)
        for end, us in (("a", 5.0), ("b", 7.0), ("c", 0.0))
    ]
    assert by_kernel(events) == {name[:60]: (4, 12.0)}
