"""Networks as linear programs: the triangle relaxation (Ehlers 2017) and the big-M MILP (Tjeng et al. 2019)."""

from verifier.encoding.network import Encoder
from verifier.encoding.question import OBJECTIVES, Encoding, encode

__all__ = ["OBJECTIVES", "Encoder", "Encoding", "encode"]
