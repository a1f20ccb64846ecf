"""Every op, one file per family; importing this package fills the registry."""

from verifier.ops import (
    affine,
    convolution,
    exponential,
    gates,
    pooling,
    powers,
    product,
    relu,
    resize,
    shape,
    smooth,
    waves,
)

__all__ = [
    "affine",
    "convolution",
    "exponential",
    "gates",
    "pooling",
    "powers",
    "product",
    "relu",
    "resize",
    "shape",
    "smooth",
    "waves",
]
