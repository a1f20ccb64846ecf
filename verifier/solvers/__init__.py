"""The registry of linear and mixed-integer solvers.

To add one: write its file, then its line here. Naming solvers imports nothing; a package is imported on its first run.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from verifier.errors import SolverUnavailableError

if TYPE_CHECKING:
    from verifier.solvers.base import Solver

# name -> (class in the module of that name, package that must be installed)
_REGISTRY = {
    "highs": ("Highs", "highspy"),
    "cvxpy": ("Cvxpy", "cvxpy"),
    "pulp": ("Pulp", "pulp"),
    "scipy": ("Scipy", "scipy"),
}


def available() -> list[str]:
    """Names of the registered solvers whose package is installed, the preferred one first."""
    return [name for name, (_, package) in _REGISTRY.items() if find_spec(package) is not None]


def get(name: str) -> Solver:
    """The solver of that name. Raises `SolverUnavailableError` when it is unknown or not installed."""
    if name not in _REGISTRY:
        raise SolverUnavailableError(f"solver {name!r} is unknown (available: {', '.join(available())})")
    class_name, package = _REGISTRY[name]
    if find_spec(package) is None:
        raise SolverUnavailableError(f"solver {name!r} needs the package {package!r}: pip install {package}")
    return getattr(import_module(f"verifier.solvers.{name}"), class_name)()
