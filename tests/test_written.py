"""What pages quote stands in stored tables and outputs: differences with intervals, the README's table."""
import contextlib
import csv
import json
import re

import numpy as np
import pandas as pd
import pytest

from house import HOME, NOTEBOOKS, name_of
from xmodal import stats
from xmodal.config import DATASETS, PAPER_ORDER
from xmodal.methods import METHOD_LABELS

REFERENCE = HOME / "figures" / "reference"
PAGES = [HOME / "README.md", HOME / "docs" / "results.md",
         *sorted((HOME / "docs" / "companions").glob("*.md"))]
NUMBER = r"[+−-]?\d*\.?\d+"
QUOTE = re.compile(rf"({NUMBER})\s*%?\s*\[({NUMBER}),\s+({NUMBER})\]")     # +0.007 [−0.000, +0.015]
ELSEWHERE = "## Real patients"         # of data that no stored run has read


def value(text):
    return float(text.replace("−", "-"))


def rows_with(text, stored):
    """The rows in which some number, or its share of a hundred, is `text` to the digits that `text` has. A
    sign may be lost in words ("0.03 below")."""
    values, row_of = stored
    half = 0.5000001 * 10.0 ** -len(text.partition(".")[2])
    near = [np.abs(unit * values - abs(value(text))) <= half for unit in (1, 100)]
    return set(row_of[near[0] | near[1]].tolist())


def is_stored(quote, stored):
    """Whether one row has all three numbers."""
    return bool(set.intersection(*(rows_with(part, stored) for part in quote)))


def numbers(texts):
    """The numbers among texts."""
    values = set()
    for text in texts:
        with contextlib.suppress(ValueError):
            values.add(float(text))
    return values


def of_scaling():
    """Difference and interval of the measures in docs/scaling.csv: with alignment less without, by patients,
    and of most patients less a quarter of them, with alignment."""
    table = pd.read_csv(HOME / "docs" / "scaling.csv")
    rows = []
    for measure in ("r_at_10", "auc"):
        wide = table.pivot_table(index="seed", columns=["method", "patients"], values=measure)
        aligned, without = wide["align_only"], wide["erm"]
        gaps = [(aligned - without)[patients] for patients in aligned.columns]
        for gap in (*gaps, aligned[4000] - aligned[1000]):
            mean = stats.paired_mean(gap.to_numpy())
            rows.append({mean.difference, mean.low, mean.high})
    return rows


@pytest.fixture(scope="module")
def stored():
    """The absolute numbers of each row of the reference tables, and of each line that a stored notebook
    prints: all of them, and the row that each stands in."""
    rows = of_scaling()
    for path in sorted(REFERENCE.rglob("*.csv")):
        with open(path, newline="") as file:
            rows += [numbers(row) for row in csv.reader(file)]
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", ()):
                text = output.get("text") or output.get("data", {}).get("text/plain", ())
                rows += [numbers(re.findall(NUMBER, line)) for line in "".join(text).splitlines()]
    values = [abs(number) for row in rows for number in row]
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return np.array(values), row_of


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_quoted_interval_stands_in_a_stored_table(path, stored):
    text = " ".join(path.read_text().partition(ELSEWHERE)[0].split())
    quotes = QUOTE.findall(text)
    assert len(quotes) > 3
    assert not [quote for quote in quotes if not is_stored(quote, stored)]


def test_an_interval_that_no_table_has_is_found(stored):
    assert is_stored(("+0.007", "−0.000", "+0.015"), stored), "ours less ERM"
    assert not is_stored(("+0.017", "−0.010", "+0.025"), stored)


def test_the_table_of_the_readme_is_that_of_figure_3():
    quoted = {}
    for line in (HOME / "README.md").read_text().splitlines():
        if "±" in line:
            name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            quoted[name.replace(" + ", "+")] = cells
    order = ("cbis_ddsm", "inbreast", "bach", "camelyon")
    for k, domain in enumerate(order):
        table = pd.read_csv(REFERENCE / f"fig3{'abcd'[PAPER_ORDER.index(domain)]}.csv")
        assert set(table.held_out) == {domain} and domain in DATASETS
        for method, rows in table.groupby("method"):
            label = "ours, adapted" if method == "ours_tta" else METHOD_LABELS[method]
            written = f"{rows.auc.mean():.2f}±{np.std(rows.auc, ddof=1):.2f}"
            assert quoted[label][k] == written, (label, domain)
