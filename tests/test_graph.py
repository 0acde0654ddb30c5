"""The graph of the main job makes a step again where its code has changed, and for nothing less."""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from xmodal import config


FOLD = "runs/lesson/notebooks/03_train_bach_42.ipynb"


def without_data(_, names):
    return [name for name in names if "." in name and not name.endswith(".py")]


@pytest.fixture
def checkout(home):
    """A copy of code and notebooks in `home`, whose steps only touch their outputs; one fold is made."""
    for name in ("xmodal", "data_scripts", "figures"):
        shutil.copytree(config.HOME / name, home / name, dirs_exist_ok=True, ignore=without_data)
    shutil.copytree(config.HOME / "notebooks", home / "notebooks")
    text = (config.HOME / "Snakefile").read_text().replace("house.HOME", "HERE")
    text = re.sub("^RUN = .*", 'RUN = "touch {output} #"', text, flags=re.M)
    (home / "Snakefile").write_text(f"from pathlib import Path\nHERE = Path({str(home)!r})\n{text}")
    assert jobs(home)["train"] == 1
    planned = json.loads((home / ".snakemake" / "plan.json").read_text())["minutes"]
    assert len(planned) == 4 and planned[str(home / FOLD)] == 4.5, "from which each step says what is left"
    return home


def jobs(home, *options):
    """{step: how often it is made} for one fold; with "--dry-run" how often it would be."""
    command = [sys.executable, "-m", "snakemake", home / FOLD, "--snakefile", home / "Snakefile",
               "--cores", "1", "--nolock", "--rerun-triggers", "mtime", "params", "--config",
               "profile=lesson", *options]
    environment = os.environ | {"PYTHONPATH": str(config.HOME)}
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    counts = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M)
    return {name: int(count) for name, count in counts}


def test_code_counts_and_dates_and_outputs_of_notebooks_do_not(checkout):
    path = checkout / "notebooks" / "02_preprocess.ipynb"
    book = json.loads(path.read_text())
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    path.write_text(json.dumps(book))                     # as saving it in Lab does
    losses = checkout / "xmodal" / "losses.py"
    text = losses.read_text() + "\n# a comment\n"
    losses.write_text(text)
    assert jobs(checkout, "--dry-run") == {}
    assert "def irm_penalty(logits, y):" in text
    losses.write_text(text.replace("def irm_penalty(logits, y):", "def irm_penalty(logits, y, share=0):"))
    assert jobs(checkout, "--dry-run") == {"train": 1, "total": 1}


def test_a_step_that_fails_is_repeated_where_a_profile_asks_for_it(checkout):
    """As profiles/slurm does, since nodes get lost."""
    text = (checkout / "Snakefile").read_text()
    assert 'RUN = "touch' in text
    (checkout / "Snakefile").write_text(text.replace('RUN = "touch', 'RUN = "mkdir tried && exit 1; touch'))
    (checkout / FOLD).unlink()
    jobs(checkout, "--retries", "1")
    assert (checkout / "tried").is_dir() and (checkout / FOLD).exists()
