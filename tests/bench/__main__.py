"""Every bench, one after the other, each in a process of its own: `make bench`, or `python tests/bench`.

Prints one table and writes build/bench.json: what, ours and peer (milliseconds, medians over the repeats),
ratio, floor, met, and the machine. A floor that is not met is shown and is no failure, since a busy machine
is slow in its own way; a bench that breaks is a failure.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import ratios

from xmodal.runtime import doctor
from xmodal.runtime.files import write_json


def gather(benches, out):
    """(rows, names of those that broke) of the benches: paths of scripts, which run in the folder `out`."""
    rows = []
    broken = []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    for path in benches:
        print(path.stem, file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, str(path)], cwd=out, stdout=subprocess.DEVNULL, env=env)
        if done.returncode:
            broken.append(path.stem)
            continue
        for row in json.loads((out / "build" / f"{path.stem}.json").read_text()):
            rows.append({"bench": path.stem, **row})
    return rows, broken


def main(benches=None, out=HERE.parents[1]):
    """Returns 1 if a bench broke. benches: all of this folder if None."""
    rows, broken = gather(benches or sorted(HERE.glob("bench_*.py")), out)
    if rows:
        machine = doctor.environment() | {"threads": 1}
        write_json(out / "build" / "bench.json", {"unit": "ms", "machine": machine, "rows": rows})
        print(ratios.table(rows))
        met = sum(row["met"] for row in rows)
        print(f"{met} of {len(rows)} floors met; "
              f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}")
    for name in broken:
        print(f"{name} broke; run `.venv/bin/python tests/bench/{name}.py` to see why")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
