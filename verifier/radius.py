"""How large an eps is safe for one input, by bisection over `strategy.verify`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from verifier.errors import SpecificationError
from verifier.spec.robustness import local_robustness
from verifier.strategy import Settings, Subject, verify
from verifier.verdict import Result, Verdict

RELATIVE_GAP = Fraction(1, 100)
SMALLEST = Fraction(1, 10**5)


@dataclass(frozen=True, eq=False)
class Radius:
    """proved: the largest eps proved safe (-inf: not even the input itself). broken: the smallest one broken (inf:
    none). counterexample: the float32 input that breaks it. steps: the eps tried, in order, with their verdicts.
    solver_word: what is proved rests on a solver's word alone, which only the method `milp` takes.
    """

    proved: float
    broken: float
    counterexample: np.ndarray | None
    seconds: float
    steps: tuple[tuple[float, Verdict], ...]
    solver_word: bool = False


class _Bisection:
    """Verdicts by eps, each asked once, and what they imply."""

    def __init__(self, ask: Callable[[Fraction], Result], progress: Callable[[str], None] | None) -> None:
        self.ask, self.progress = ask, progress
        self.steps: list[tuple[Fraction, Verdict]] = []
        self.proved: Fraction | None = None
        self.broken: Fraction | None = None
        self.counterexample: np.ndarray | None = None
        self.solver_word = False

    def step(self, eps: Fraction) -> Verdict:
        """Ask for one eps and take over the answer."""
        if self.progress is not None:
            self.progress(f"eps {float(eps):.6g}")
        result = self.ask(eps)
        self.steps.append((eps, result.verdict))
        if result.verdict is Verdict.VERIFIED:
            self.proved, self.solver_word = eps, result.solver_word
        elif result.verdict is Verdict.FALSIFIED:
            self.broken, self.counterexample = eps, result.counterexample
        return result.verdict

    def close(self, low: Fraction, high: Fraction, moves_low: Callable[[Verdict], bool], until: float) -> None:
        """Halve [low, high] until it is narrow; `moves_low` says whether a verdict moves the lower end."""
        while high - low > max(SMALLEST, RELATIVE_GAP * high) and time.monotonic() < until:
            middle = _decimal((low + high) / 2)
            if not low < middle < high:
                return
            low, high = (middle, high) if moves_low(self.step(middle)) else (low, middle)


def _decimal(eps: Fraction) -> Fraction:
    """eps to four significant digits, so that the numbers reported are short and exact."""
    return Fraction(f"{float(eps):.3e}")


def radius(
    subject: Subject,
    x: np.ndarray,
    label: int,
    target: int | None = None,
    norm: str = "linf",
    settings: Settings | None = None,
    lower: float = 0.0,
    upper: float = 1.0,
    progress: Callable[[str], None] | None = None,
) -> Radius:
    """Enclose the largest safe eps of x (*input_shape) between one proved and one broken, to about 1 %.

    settings.timeout is for the whole bisection; a single question gets a quarter of what is left. Where verdicts are
    UNKNOWN, the two ends stay apart. Raises as `local_robustness` and `strategy.verify` do.
    """
    settings = settings or Settings()
    if not upper > lower:
        raise SpecificationError(f"the data range [{lower}, {upper}] is empty")
    began = time.monotonic()
    end = began + settings.timeout
    classes = math.prod(subject.graph.output_shape)
    size = {"linf": 1.0, "l2": math.sqrt(x.size), "l1": float(x.size)}.get(norm, 1.0)
    widest = _decimal(Fraction((upper - lower) * size))

    def ask(eps: Fraction) -> Result:
        prop = local_robustness(x, label, eps, norm, target, classes=classes, lower=lower, upper=upper)
        share = max((end - time.monotonic()) / 4, 0.05)
        return verify(subject, prop, replace(settings, timeout=share))

    search = _Bisection(ask, progress)
    if search.step(Fraction(0)) is Verdict.VERIFIED:
        # Double from a small radius: most inputs break early, and large balls are the expensive ones.
        low, high = Fraction(0), widest
        eps = min(_decimal(widest / 256), widest)
        while time.monotonic() < end:
            if search.step(eps) is not Verdict.VERIFIED:
                high = eps
                break
            low = eps
            if eps == widest:
                break
            eps = min(2 * eps, widest)
        if low < high:
            search.close(low, high, lambda verdict: verdict is Verdict.VERIFIED, end)
        unknown = [eps for eps, verdict in search.steps if verdict is Verdict.UNKNOWN]
        if unknown and search.proved is not None:
            top = search.broken or widest
            search.close(max(unknown), top, lambda verdict: verdict is not Verdict.FALSIFIED, end)
    return Radius(
        proved=-math.inf if search.proved is None else float(search.proved),
        broken=math.inf if search.broken is None else float(search.broken),
        counterexample=search.counterexample,
        seconds=time.monotonic() - began,
        steps=tuple((float(eps), verdict) for eps, verdict in search.steps),
        solver_word=search.solver_word,
    )
