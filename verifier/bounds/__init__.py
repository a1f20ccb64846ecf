"""Bound methods, one file each: `(graph, box, C) -> Bounds`."""
