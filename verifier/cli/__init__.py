"""The command line: the only package that prints.

One file per command, each with `add_parser` and `run`. Heavy packages are imported inside `run`, so that `--help` and
usage errors answer at once.
"""
