"""The bound methods by the names that people use."""

from verifier.bounds.alpha import Alpha
from verifier.bounds.crown import Crown
from verifier.bounds.interval import IntervalBounds
from verifier.bounds.lp import LpBounds

METHODS = {"interval": IntervalBounds, "crown": Crown, "alpha": Alpha, "lp": LpBounds}
