# The main job: from native files to figures. `make reproduce` runs it; `snakemake -n --cores 2` shows what is left to do.
# The last output of a step is its executed notebook, written only when every cell went well. A failed step leaves
# <name>.partial.ipynb with the cells that ran. Deleting an output makes its step run again, and so does a change of the code
# of a notebook, or of what it uses of the modules (`identity`), but not saving it: its date and outputs do not count.
# One job trains all methods of a fold, which saves a laptop the start of many kernels; with `--config jobs=methods` each
# method is a job of its own (profiles/methods.smk), so that a cluster trains them side by side.
# Snakemake deletes the outputs of a step before it runs the step again, except those named `update`: a run that is done
# with the same settings, cohort, encoder and code is loaded, and a training that was cut off goes on.
import functools
import hashlib
import os
import shlex
import sys
from dataclasses import asdict

from xmodal import config as house
from xmodal.methods import METHODS, Method
from xmodal.runtime import engine, identity

GIVEN = config.get("profile", "lesson")  # a name, or the path of a .yaml file
if GIVEN.endswith((".yaml", ".yml")):
    GIVEN = os.path.abspath(GIVEN)
profile = house.profile(GIVEN)
PROFILE = profile.name
DATA, RUNS = house.DATA / PROFILE, house.RUNS / PROFILE
EXECUTED = str(RUNS / "notebooks" / "{}.ipynb")  # executed copies
SPENT = str(RUNS / "benchmarks" / "{}.tsv")  # seconds and memory that a step took
PYTHON = shlex.quote(sys.executable)  # any path may hold spaces
PLAN = house.HOME / ".snakemake" / "plan.json"  # what is to come, from which each step says how long it will take
RUN = f"OMP_NUM_THREADS=1 XMODAL_PLAN={shlex.quote(str(PLAN))} {PYTHON} -m xmodal.runtime.notebook {{input.notebook:q}} {{output.executed:q}} PROFILE={shlex.quote(GIVEN)}"
DONE = str(RUNS / "{method}" / "{held_out}" / "seed_{seed}" / "done")
TRAIN, TTA = EXECUTED.format("03_train_{held_out}_{seed}"), EXECUTED.format("04_tta_{seed}")
BASELINES = expand(EXECUTED.format("03b_baselines_{which}"), which=("classic", "networks"))
COHORT = DATA / "cohort.parquet"
COMPANIONS = "11_kmat 12_mirror 13_rfpmss 14_fusion".split()
MINUTES = {"00": 0.3, "01": 3, "02b": 1.5, "02": 1, "03b_baselines_classic": 3, "03b": 15, "03": 4.5, "04": 1, "05": 1.5, "06": 1, "1": 6}
CPU, GPU = {"mem_mb": 2500, "runtime": 120}, {"mem_mb": 2500, "runtime": 120}  # megabytes and minutes of a job
if profile.device == "cuda":
    CPU, GPU = {"mem_mb": 16000, "runtime": 4320}, {"mem_mb": 32000, "runtime": 2880, "gpu": 1}

IMAGES = [profile.phantom, profile.image_size, profile.tile_um, profile.tiles_per_slide]  # settings that make a cohort
TRAINING = [asdict(profile), {name: identity.non_default(asdict(row), Method) for name, row in METHODS.items()}]
TRAINING += [identity.code_of_own(row.callback) for row in METHODS.values() if row.callback]

engine.enter(house.HOME / ".snakemake")  # after a kill the next engine goes on
workdir: house.HOME

wildcard_constraints:
    held_out="|".join(house.DOMAINS), seed=r"\d+", which="classic|networks", method="|".join(METHODS), companion="|".join(COMPANIONS)

@functools.cache
def code(notebook):
    return identity.code_of_notebook(house.HOME / "notebooks" / f"{notebook}.ipynb", house.HOME)

def minutes(executed):
    """What one core spends on a step of the lesson, by its executed copy."""
    return next(spent for name, spent in MINUTES.items() if os.path.basename(executed).startswith(name))

onstart:
    engine.plan(PLAN, {job.output.executed: minutes(job.output.executed) for job in workflow.dag.needrun_jobs() if job.output})

def step(rule_name, notebook, reads, room, options="", writes=(), executed=None, first=0, tries=None, cores=1, settings=TRAINING):
    """A rule that executes notebooks/<notebook>.ipynb with `options` once all that it reads is there.

    writes: outputs beside the executed copy, which is called `executed` (the notebook's own name if None). room: CPU or
    GPU. first: priority. cores: processes that it uses. tries: repetitions after a failure. Only a download has any, since
    another step fails again as it failed; None leaves them to the profile, since where nodes get lost all are repeated.
    settings: what its result depends on beside files and code.
    """
    copy = executed or notebook
    def depends_on(wildcards):
        return hashlib.sha256(repr([code(notebook.format(**wildcards)), settings]).encode()).hexdigest()[:16]
    rule:
        name: rule_name
        input: reads, notebook=ancient(f"notebooks/{notebook}.ipynb")
        params: depends_on
        output: writes, executed=EXECUTED.format(copy)
        benchmark: SPENT.format(copy)
        priority: first
        retries: tries
        threads: cores
        resources: **room
        shell: f"{RUN} {options}"

rule reproduce:  # what no later step would miss is named too, so that it is made again where it was deleted
    input:
        [EXECUTED.format(name) for name in ("05_evaluate", "06_interpret", "00_start_here")], COHORT,
        expand([DONE, TRAIN, TTA], method=METHODS, held_out=house.DOMAINS, seed=house.SEEDS)

rule companions:  # no part of the main job: `make companions`
    input: expand(EXECUTED.format("{companion}"), companion=COMPANIONS)

step("download", "01_download", [], CPU, "WORKERS={threads}", tries=2, cores=2, settings=[])
step("preprocess", "02_preprocess", [EXECUTED.format("01_download")], CPU, "WORKERS={threads}", writes=[COHORT], cores=2,
    settings=IMAGES)
step("encoder", "02b_pretrain", [COHORT], CPU, "WORKERS={threads}", cores=2)

ready = [COHORT, EXECUTED.format("02_preprocess"), EXECUTED.format("02b_pretrain")]
alone = []  # executed notebooks of methods that are trained alone; the fold's step then loads their runs
if config.get("jobs") == "methods":
    include: "profiles/methods.smk"
step("train", "03_train", ready + alone, GPU, "HELD_OUT={wildcards.held_out} SEED={wildcards.seed} METHODS=all",
    writes=[] if alone else [update(expand(DONE, method=METHODS, allow_missing=True))], executed="03_train_{held_out}_{seed}", first=1)
step("baselines", "03b_baselines", ready, GPU,
    f"METHODS={{wildcards.which}} SEEDS='{list(house.SEEDS)}'", executed="03b_baselines_{which}", first=2)  # the longest job begins first
step("tta", "04_tta", expand([TRAIN, DONE], held_out=house.DOMAINS, method=METHODS, allow_missing=True), GPU,
    "SEED={wildcards.seed}", executed="04_tta_{seed}")  # on every held-out domain of one seed

adapted = expand(TTA, seed=house.SEEDS)
step("evaluate", "05_evaluate", adapted + BASELINES, CPU)
step("interpret", "06_interpret", adapted + BASELINES, GPU)
step("start", "00_start_here", adapted, GPU)
step("companion", "{companion}", [], GPU)
