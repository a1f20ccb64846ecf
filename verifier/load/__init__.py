"""Model files and modules -> graphs.

A file is recognised by its content. No file can run code: pickles go through an allow-list, and weights are copied out.
"""

from verifier.load.export import export_onnx
from verifier.load.model import Model, load, load_module
from verifier.load.module import from_module

__all__ = ["Model", "export_onnx", "from_module", "load", "load_module"]
