"""Attacks propose inputs that violate a property; `replay` alone decides whether they do."""
