"""The training methods by name; each file names its paper. Adding one means adding a file and a line here."""

from __future__ import annotations

from verifier.train.batch import Loss
from verifier.train.losses.crown_ibp import CrownIbp
from verifier.train.losses.dual import Dual
from verifier.train.losses.expressive import CcIbp, ExpIbp, MtlIbp
from verifier.train.losses.fgsm import Fgsm
from verifier.train.losses.gradient_norm import GradientNorm
from verifier.train.losses.ibp import Ibp
from verifier.train.losses.linear import LinearRobust
from verifier.train.losses.noise import Noise
from verifier.train.losses.pgd import Pgd
from verifier.train.losses.sabr import Sabr
from verifier.train.losses.self_training import SelfTraining
from verifier.train.losses.stability import Stability
from verifier.train.losses.standard import Standard
from verifier.train.losses.trades import Trades
from verifier.train.losses.tulip import Tulip

METHODS: dict[str, type[Loss]] = {
    "standard": Standard,
    "fgsm": Fgsm,
    "pgd": Pgd,
    "gradient_norm": GradientNorm,
    "tulip": Tulip,
    "trades": Trades,
    "ibp": Ibp,
    "crown_ibp": CrownIbp,
    "dual": Dual,
    "sabr": Sabr,
    "mtl_ibp": MtlIbp,
    "cc_ibp": CcIbp,
    "exp_ibp": ExpIbp,
    "noise": Noise,
    "stability": Stability,
    "self_training": SelfTraining,
    "linear": LinearRobust,
}
