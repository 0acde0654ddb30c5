"""What the benches share: their rows are printed as a table and kept as JSON."""
import json
from pathlib import Path

import pandas as pd


def tell(rows, name):
    """Prints `rows` (list of dicts) and writes build/<name>.json."""
    print(pd.DataFrame(rows).to_string(index=False))
    out = Path("build") / f"{name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")
