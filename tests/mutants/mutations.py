"""Small faults to plant in the package: cosmic-ray's operators, and three of our own.

cosmic-ray changes operators, comparisons, numbers, booleans, conditions, handlers, decorators and
loops. It leaves out what matters most in a library that promises to refuse rather than be silently
wrong: a refusal that never comes, a call that is not made, and an argument that is not passed on.
"""

import ast
import difflib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names


class _Own(Operator):
    """cosmic-ray tests its operators on examples; ours have tests of their own."""

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


class SilentRefusal(_Own):
    """`if wrong: raise ...` whose condition never holds."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "if_stmt" and node.children[3].get_code().strip().startswith("raise "):
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = parso.parse(f" False and ({node.children[1].get_code().strip()})")
        return node


class CallNotMade(_Own):
    """A call whose value nobody takes, left out."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "simple_stmt" and _is_call(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[0] = parso.parse(f"{node.children[0].get_first_leaf().prefix}pass")
        return node


class ArgumentNotPassed(_Own):
    """A call without one of its `name=value` arguments."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "argument" and node.children[1] == "=":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return parso.parse(" **{}")


def _is_call(node: Any) -> bool:
    return node.type == "atom_expr" and node.children[-1].get_code().startswith("(")


# Both of these need to be told which variables; a name of another value is seldom a likely slip.
_LEFT_OUT = {"core/VariableReplacer", "core/VariableInserter"}
OPERATORS: dict[str, type[Operator]] = {
    **{n: get_operator(n) for n in sorted(operator_names()) if n not in _LEFT_OUT},
    "own/SilentRefusal": SilentRefusal,
    "own/CallNotMade": CallNotMade,
    "own/ArgumentNotPassed": ArgumentNotPassed,
}


@dataclass(frozen=True)
class Mutant:
    """One fault: where, what it is, and the line before and after.

    Known again by `key` when the lines around it have moved.
    """

    path: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str

    def source(self, tree: Path) -> str:
        made = _mutated(tree / self.path, self.operator, self.occurrence)
        assert made is not None
        return made

    def statement(self, tree: Path) -> range:
        """The lines of its whole statement, without what is indented below it."""
        around = [
            (node.end_lineno - node.lineno, node)
            for node in ast.walk(ast.parse((tree / self.path).read_text(encoding="utf-8")))
            if isinstance(node, ast.stmt) and node.lineno <= self.line <= (node.end_lineno or 0)
        ]
        if not around:
            return range(self.line, self.line + 1)
        node = min(around, key=lambda pair: pair[0])[1]
        body = getattr(node, "body", None)
        end = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
        return range(node.lineno, end + 1)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.path, self.before, self.after


def places(tree: Path, path: str) -> dict[tuple[int, int], list[tuple[str, int, int]]]:
    """Where something can be changed -> the operators that can, their occurrence and its line."""
    found: dict[tuple[int, int], list[tuple[str, int, int]]] = {}
    root = parso.parse((tree / path).read_text(encoding="utf-8"))
    nodes = list(_nodes(root))
    for name, kind in OPERATORS.items():
        operator, occurrence = kind(), -1
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                occurrence += 1
                if not _is_annotation(node) and not _is_alias(node):
                    found.setdefault(start, []).append((name, occurrence, start[0]))
    return dict(sorted(found.items()))


def sample(tree: Path, paths: list[str], size: int, seed: int) -> list[Mutant]:
    """`size` places of these files, each with one of the mutants that are possible there."""
    chance = random.Random(seed)
    everywhere = [(p, at, ways) for p in sorted(paths) for at, ways in places(tree, p).items()]
    chance.shuffle(everywhere)
    mutants: list[Mutant] = []
    for path, _, ways in everywhere:
        made = mutant(tree, path, *chance.choice(ways))
        if made is not None and len(mutants) < size:
            mutants.append(made)
    return mutants


def mutant(tree: Path, path: str, operator: str, occurrence: int, line: int) -> Mutant | None:
    """The mutant, or `None` where it is the same program or none at all."""
    source = (tree / path).read_text(encoding="utf-8")
    made = _mutated(tree / path, operator, occurrence)
    try:
        if made is None or ast.dump(ast.parse(made)) == ast.dump(ast.parse(source)):
            return None
    except SyntaxError:
        return None
    return Mutant(path, operator, occurrence, line, *_changed(source, made))


def _mutated(file: Path, operator: str, occurrence: int) -> str | None:
    source = file.read_text(encoding="utf-8")
    try:
        made: str | None = mutate_code(source, OPERATORS[operator](), occurrence)
    except AttributeError:  # cosmic-ray on a handler of `module.Error`
        return None
    return made


def _changed(before: str, after: str) -> tuple[str, str]:
    """The lines that differ, as one."""
    old, new = before.splitlines(), after.splitlines()
    spans = [op for op in difflib.SequenceMatcher(None, old, new).get_opcodes() if op[0] != "equal"]
    _, i, j, k, m = (*spans[0][:1], spans[0][1], spans[-1][2], spans[0][3], spans[-1][4])
    return " ".join(x.strip() for x in old[i:j]), " ".join(x.strip() for x in new[k:m])


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _is_annotation(node: Any) -> bool:
    """Whether it only says a type, which `mypy` reads and nothing runs by."""
    while node.parent is not None:
        above = node.parent
        if above.type == "tfpdef" and node is not above.children[0]:
            return True
        if above.type == "annassign" and node is above.children[1]:
            return True
        if above.type == "funcdef" and node is above.annotation:
            return True
        node = above
    return False


def _is_alias(node: Any) -> bool:
    """Whether it is the | of a module's name for a type."""
    statement = node.parent
    while statement is not None and statement.type in ("expr", "atom", "atom_expr", "trailer"):
        statement = statement.parent
    outside = statement is not None and statement.type == "expr_stmt"
    return (
        outside
        and getattr(node, "value", "") == "|"
        and statement.parent.parent.type == ("file_input")
    )
