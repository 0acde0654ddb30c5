"""What the benches share: two ways timed in turn make a row, and the rows are printed as a table and kept as JSON.
Imported before xmodal: what that writes goes to a folder that ends with the process."""
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
    """Processor seconds of a call, on all its threads: what other programs do meanwhile counts little."""
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def compare(what, ours, peer, repeats, **floor):
    """A row from two functions that return the seconds they took: once each to warm up, then `repeats` times in turn."""
    ours(), peer()
    return row(what, [(ours(), peer()) for _ in range(repeats)], **floor)


def row(what, times, at_most=None, at_least=None):
    """A row of the table from [(seconds of ours, seconds of the peer), ...]; ours and peer are told in milliseconds.

    at_most: what ours may cost beside the peer, so the ratio is ours / peer; at_least: how many times as fast it must be, so the
    ratio is peer / ours. All three are medians over the repeats; the ratio is the median of the ratios, since load comes and goes.
    """
    ours, peer = (statistics.median(t) for t in zip(*times))
    ratio = statistics.median(a / b if at_least is None else b / a for a, b in times)
    return {"what": what, "ours": float(f"{1e3 * ours:.4g}"), "peer": float(f"{1e3 * peer:.4g}"), "ratio": float(f"{ratio:.3g}"),
            "floor": f"<= {at_most:g}" if at_least is None else f">= {at_least:g}",
            "met": bool(ratio <= at_most if at_least is None else ratio >= at_least)}


def table(rows):
    """The rows as text: ours and peer in milliseconds."""
    shown = pd.DataFrame(rows).replace({"met": {True: "yes", False: "NO"}})
    return shown.rename(columns={"ours": "ours, ms", "peer": "peer, ms"}).to_string(index=False, float_format="{:.4g}".format)


def tell(rows, name):
    """Prints `rows` (list of dicts) and writes build/<name>.json."""
    print(table(rows))
    out = Path("build") / f"{name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")
