"""Facts about the HTP that our rules for QNN rest on, each shown on the emulator.

    python traps.py [NAME...] [--soc 57] [--arch 75]

Each trap has a form that fails and, mostly, one that works. A form is `right` (all of it on the HTP, numbers as on the
CPU), `wrong` (all of it on the HTP without a word, other numbers) or `refused` (nodes are left to the CPU). Exit status
1 if a form is no longer what it was: then the rule can go, or must come.
"""

import argparse
import sys

import numpy as np

import check
import sessions
import trap_activations
import trap_sessions
import trap_weights
from sessions import Refused

TRAPS = trap_weights.TRAPS | trap_activations.TRAPS
# Two ways of rounding to 8 bits are this near: three steps of 1/127 of the largest value, and a bit.
NEAR = 0.025


def form(graph, soc, arch, opset=21, version=10, domains=()):
    """What the HTP makes of a graph, with the largest departure from the CPU, as a share of the largest value."""
    model, feed = graph.model(opset, version, domains), graph.feed()
    plain = sessions.run(sessions.cpu(model), feed)
    try:
        on_htp = sessions.run(sessions.htp(model, soc, arch), feed)
    except Refused:
        return "refused", None
    errors = [np.abs(on_htp[name].astype(float) - plain[name]).max() / np.abs(plain[name]).max() for name in plain]
    return "right" if max(errors) <= NEAR else "wrong", max(errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--soc", type=int, default=57)
    parser.add_argument("--arch", type=int, default=75)
    given = parser.parse_args()
    known = {**TRAPS, **trap_sessions.TRAPS}
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"no trap {', '.join(unknown)}; there are {', '.join(known)}")
    changed = 0
    with check.own_stdout() as out:
        for name in given.names or known:
            for what, holds in facts(name, given.soc, given.arch):
                changed += not holds
                print(f"{'holds' if holds else 'CHANGED'}  {name}: {what}", file=out, flush=True)
    return 1 if changed else 0


def facts(name, soc, arch):
    if name in trap_sessions.TRAPS:
        what, holds = trap_sessions.TRAPS[name](soc, arch)
        return [(what, bool(holds))]
    return [fact(what, expected, soc, arch, *graph) for what, expected, *graph in TRAPS[name]()]


def fact(what, expected, soc, arch, graph, options=None):
    found, error = form(graph, soc, arch, **(options or {}))
    number = "" if error is None else f", {100 * error:.3f} % off"
    return f"{what}: {found}{number}" + ("" if found == expected else f", not {expected}"), found == expected


if __name__ == "__main__":
    sys.exit(main())
