"""Google Colab, whose kernels run elsewhere: a proxy leads from the browser to their ports."""

import sys
from typing import Any


def in_colab() -> bool:
    """Whether this process is a kernel of Colab, which imports its own package first of all."""
    return "google.colab" in sys.modules


def show_port(port: int, path: str) -> None:
    """Show what listens at a port in a frame under the cell that runs."""
    output: Any = sys.modules["google.colab"].output
    output.serve_kernel_port_as_iframe(port, path=path, height="900")
