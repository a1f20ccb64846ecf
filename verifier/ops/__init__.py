"""Every op, one file per family; importing this package fills the registry."""

from verifier.ops import affine, convolution, pooling, relu, shape, smooth

__all__ = ["affine", "convolution", "pooling", "relu", "shape", "smooth"]
