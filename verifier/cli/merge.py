"""`verifier merge`: the journals of shards into one."""

from __future__ import annotations

import argparse
from pathlib import Path

from verifier.cli import options
from verifier.cli.output import print_json, print_notes

DESCRIPTION = "Write one journal with the results of several, such as those of the shards of a job array."


def add_parser(subparsers: options.Subparsers) -> None:
    parser = subparsers.add_parser("merge", help="journals into one", description=DESCRIPTION)
    parser.add_argument("journals", metavar="JOURNAL", nargs="+", help="journals of `verifier certify`")
    parser.add_argument("-o", "--out", metavar="FILE", required=True, help="the journal to write; it must not exist")
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from verifier.batch.merging import merge
    from verifier.report.summary import summary

    merged = merge([Path(journal) for journal in args.journals], Path(args.out)).values()
    totals = [summary(results) for results in merged]
    if args.json:
        print_json({"command": "merge", "runs": [total.record() for total in totals], "files": [args.out]})
        return 0
    for total in totals:
        print(total.sentence())
    print_notes([args.out], ())
    return 0
