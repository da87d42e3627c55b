"""Global states of torch and Python do not matter to tl_steer, and are left alone by it."""

import ast
from pathlib import Path

import tl_steer as ts

PACKAGE = Path(ts.__file__).parent
# What they make has the global default dtype, if nothing else is said; and the global device.
FLOATS = {
    "zeros",
    "ones",
    "full",
    "empty",
    "tensor",
    "rand",
    "randn",
    "linspace",
    "logspace",
    "eye",
}
INTEGERS = {"arange", "randperm", "randint"}


def factories(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = getattr(node, "func", None) if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and ast.unparse(called.value) == "torch":
            yield node


def test_no_tensor_is_made_without_a_dtype_and_a_device():
    silent = []
    for path in PACKAGE.rglob("*.py"):
        for call in factories(path):
            said = {keyword.arg for keyword in call.keywords}
            name = call.func.attr
            needed = {"dtype", "device"} if name in FLOATS else {"device"}
            if name in FLOATS | INTEGERS and not needed <= said:
                silent.append(f"{path.relative_to(PACKAGE)}:{call.lineno} {ast.unparse(call)}")
    assert silent == []


def test_no_choice_is_between_two_plain_numbers():
    """`torch.where(mask, 1.0, 0.0)` has the default dtype."""
    plain = [
        f"{path.relative_to(PACKAGE)}:{call.lineno}"
        for path in PACKAGE.rglob("*.py")
        for call in factories(path)
        if call.func.attr == "where" and len(call.args) == 3
        if all(isinstance(getattr(a, "operand", a), ast.Constant) for a in call.args[1:])
    ]
    assert plain == []
