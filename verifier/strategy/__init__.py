"""How one property is answered.

A stage reads and improves a `Question`; adding one means writing a function in `stages` and naming it in `STAGES`
there and in `cascade.CASCADE`.
"""

from verifier.strategy.cascade import verify
from verifier.strategy.question import ALLOWANCE, Question, Subject, forms
from verifier.strategy.settings import METHODS, Settings
from verifier.strategy.stages import STAGES, Stage, bound_stage

__all__ = [
    "ALLOWANCE",
    "METHODS",
    "STAGES",
    "Question",
    "Settings",
    "Stage",
    "Subject",
    "bound_stage",
    "forms",
    "verify",
]
