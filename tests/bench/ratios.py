"""What the benches have in common: two ways are timed in turn and make a row; the rows become a table.

Imported before xmodal, so that what xmodal writes goes to a folder that is removed when the process ends.
"""
import atexit
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd

if "XMODAL_HOME" not in os.environ:
    os.environ["XMODAL_HOME"] = tempfile.mkdtemp(prefix="xmodal-bench-")
    atexit.register(shutil.rmtree, os.environ["XMODAL_HOME"], ignore_errors=True)


def seconds(function, *args):
    """Processor seconds of a call on all its threads: what other programs do meanwhile counts little."""
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def compare(what, ours, peer, repeats, **floor):
    """A row from two functions that return the seconds they took.

    Each is called once to warm up, then both in turn, `repeats` times. floor: at_most or at_least, as in
    `row`.
    """
    ours()
    peer()
    times = [(ours(), peer()) for _ in range(repeats)]
    return row(what, times, **floor)


def row(what, times, at_most=None, at_least=None):
    """A row of the table from [(seconds of ours, seconds of the peer), ...], with milliseconds of each.

    at_most   what ours may cost beside the peer; the ratio is then ours / peer
    at_least  how many times as fast as the peer ours must be; the ratio is then peer / ours
    All three are medians over the repeats. The ratio is the median of the ratios, since load comes and goes.
    """
    ours, peer = (statistics.median(seconds) for seconds in zip(*times))
    if at_least is None:
        ratio = statistics.median(a / b for a, b in times)
        floor = f"<= {at_most:g}"
        met = ratio <= at_most
    else:
        ratio = statistics.median(b / a for a, b in times)
        floor = f">= {at_least:g}"
        met = ratio >= at_least
    return {
        "what": what,
        "ours": float(f"{1e3 * ours:.4g}"),
        "peer": float(f"{1e3 * peer:.4g}"),
        "ratio": float(f"{ratio:.3g}"),
        "floor": floor,
        "met": bool(met),
    }


def table(rows):
    """The rows as text: ours and peer in milliseconds."""
    shown = pd.DataFrame(rows).drop(columns="bench", errors="ignore")
    shown = shown.replace({"met": {True: "yes", False: "NO"}})
    shown = shown.rename(columns={"ours": "ours, ms", "peer": "peer, ms"})
    return shown.to_string(index=False, float_format="{:.4g}".format)


def report(rows, name):
    """Prints `rows` (list of dicts) and writes build/<name>.json."""
    print(table(rows))
    out = Path("build") / f"{name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")
