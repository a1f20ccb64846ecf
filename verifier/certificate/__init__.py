"""Certificates: evidence behind a "verified" that anybody can check with `checker.py` alone (DESIGN, section 5)."""
