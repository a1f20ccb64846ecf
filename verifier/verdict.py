"""Verdicts and the record of how one was reached."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from verifier.proof import Proof


class Verdict(Enum):
    """The answer to one property. The value is its meaning."""

    VERIFIED = "no allowed input violates the property"
    FALSIFIED = "a replayed input violates the property"
    UNKNOWN = "neither a proof nor a counterexample was found"

    @property
    def exit_code(self) -> int:
        """The command line's exit code."""
        return {"VERIFIED": 0, "FALSIFIED": 1, "UNKNOWN": 3}[self.name]


@dataclass(frozen=True)
class SearchStatistics:
    """What a branch and bound took.

    subdomains: how many were looked at. bounds: how many bounds were computed, one for each subdomain and step.
    seconds: by part (tightening of hidden bounds before the search, shaving, bounding, branching, attack, leaves,
    overhead), those of several processes added up.
    """

    subdomains: int
    bounds: int
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        total = max(sum(self.seconds.values()), 1e-9)
        shares = ", ".join(f"{name} {part / total:.0%}" for name, part in self.seconds.items() if part > 0.005 * total)
        rates = f"{self.subdomains / total:.0f} subdomains and {self.bounds / total:.0f} bounds a second"
        return f"{self.subdomains} subdomains, {self.bounds} bounds, {rates}; {shares}"


@dataclass(frozen=True)
class StageReport:
    """What one stage of the cascade did: the best margin bound it proved (None: none), and a remark for people."""

    name: str
    seconds: float
    margin: float | None = None
    remark: str = ""
    search: SearchStatistics | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """A verdict with its evidence.

    about: the claim in words. stage: the stage that decided. proved: the best proved lower bound of the margin, over
    all unsafe sets (-inf: none). found: the least margin seen at an allowed input (inf: none).
    counterexample: a float32 input of the model's input shape, when FALSIFIED. reason: why, when UNKNOWN.
    solver_word: the answer rests on a solver's word alone. certified: a certificate of it was accepted. semantics: the
    arithmetic that the claim is about. proof: what a certificate can be written from, when VERIFIED and asked for.
    """

    verdict: Verdict
    about: str
    stage: str
    seconds: float
    proved: float
    found: float
    stages: tuple[StageReport, ...]
    counterexample: np.ndarray | None = None
    outputs: np.ndarray | None = None
    reason: str = ""
    solver_word: bool = False
    certified: bool = False
    semantics: str = "real"
    proof: Proof | None = None

    @property
    def label(self) -> str:
        """The verdict as printed."""
        if self.verdict is not Verdict.VERIFIED or self.certified:
            return self.verdict.name
        return f"{self.verdict.name} ({'solver, ' if self.solver_word else ''}uncertified)"


def peak_memory() -> int:
    """The peak of this process's resident memory since it started, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
