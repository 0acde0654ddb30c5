"""What is said outside the code is so: make targets, pages, versions, the lock, dependencies, licences."""
import fnmatch
import importlib.metadata
import os
import re
import subprocess
import tomllib

import pytest
import yaml
from house import HOME, MODULES, NOTEBOOKS, PYTHON, imports, name_of, tracked
from packaging.requirements import Requirement

PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
PAGES = [path for path in tracked() if path.suffix == ".md"]
QUOTING = [*PAGES, HOME / "Dockerfile", HOME / "environment.yml", HOME / ".ci" / "run"]
DOCS = ("running", "results", "extending", "model-card")
WRITTEN = ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in DOCS)]


# ---- pages ---------------------------------------------------------------------------------------

def targets():
    return set(re.findall(r"^([a-z-]+):", (HOME / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("path", QUOTING, ids=name_of)
def test_quoted_make_targets_exist(path):
    quoted = re.findall(r"(?:`|&& |exec |^ *)make ([a-z-]+)", path.read_text(), re.M)
    assert set(quoted) <= targets()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_within_the_project_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / link).exists(), f"{link} does not exist"


@pytest.mark.parametrize("name", WRITTEN)
def test_prose_is_wrapped(name):
    """Tables and links may be longer."""
    lines = (HOME / name).read_text().splitlines()
    long = [line for line in lines if len(line) > 120 and not line.startswith(("|", "!["))]
    assert not long


def test_the_readme_is_short():
    assert len((HOME / "README.md").read_text().split()) < 1000


def test_no_switch_of_the_users_reaches_what_make_runs():
    """Among them the one by which Python compiles every module anew in every process."""
    switches = ("PYTHONDONTWRITEBYTECODE", "PYTHONSTARTUP", "MPLBACKEND", "JUPYTER_PATH")
    shows = "show:\n\t@env\ninclude Makefile\n"
    given = {**os.environ, **dict.fromkeys(switches, "set")}
    shown = subprocess.run(["make", "-s", "-f", "-", "show"], cwd=HOME, input=shows, env=given,
                           capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "PYTHONNOUSERSITE=1" in shown.stdout.splitlines()
    assert not [line for line in shown.stdout.splitlines() if line.startswith(switches)]


def test_every_make_target_explains_itself():
    explained = subprocess.run(["make", "-s"], cwd=HOME, capture_output=True, text=True).stdout
    assert {f"make {target}" for target in targets()} == set(re.findall(r"^make [a-z-]+", explained, re.M))


# ---- versions and dependencies -------------------------------------------------------------------

def normal(name):
    """The name of a distribution as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_one_python_everywhere():
    assert PROJECT["requires-python"] == ">=3.11,<3.12"
    assert "- python=3.11\n" in (HOME / "environment.yml").read_text()
    assert "--python-version 3.11 " in (HOME / "Makefile").read_text()
    assert "--python-version 3.11 " in (HOME / "requirements.lock").read_text()[:500]


def test_the_lock_pins_every_requirement_with_a_hash():
    pinned = set()
    for name in ("requirements.lock", "requirements-gpu.lock"):
        lines = [line for line in (HOME / name).read_text().splitlines() if line[:1] not in ("", " ", "#")]
        assert all(re.fullmatch(r"[\w.-]+==\S+( ; .+)? \\", line) for line in lines), "a pin without a hash"
        pinned |= {normal(line.split("==")[0]) for line in lines}
    assert {normal(requirement.name) for requirement in REQUIREMENTS} <= pinned
    conda = yaml.safe_load((HOME / "environment.yml").read_text())["dependencies"]
    named = {normal(re.split("[=<>]", entry)[0]) for entry in conda} - {"python", "pip"}
    assert not named & pinned, "packages of the lock are pinned there only"


def test_what_comes_before_the_lock_is_pinned_too():
    """uv by hashes, the image's base by digest; line ends do not hang on the settings of git."""
    version = re.search(r"^UV_VERSION := (.+)$", (HOME / "Makefile").read_text(), re.M)[1]
    assert (HOME / "requirements-uv.lock").read_text().startswith(f"uv=={version} \\\n    --hash=sha256:")
    assert re.search(r"^ARG BASE=debian:\S+@sha256:[0-9a-f]{64}$", (HOME / "Dockerfile").read_text(), re.M)
    assert "* text=auto eol=lf" in (HOME / ".gitattributes").read_text()
    ignored = (HOME / ".dockerignore").read_text().splitlines()
    assert {"**/.env", "**/*.pem", "**/*.key"} <= set(ignored)


def left_out_of_the_image(name):
    """Whether .dockerignore leaves a file out, by the last pattern that fits its name or a folder's above it.
    """
    left_out = False
    for line in (HOME / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").strip("/").removeprefix("**/").split("/")
        parts = name.split("/")
        starts = range(len(parts)) if "**/" in line else [0]
        for k in starts:
            those = parts[k:k + len(pattern)]
            if len(those) == len(pattern) and all(map(fnmatch.fnmatchcase, those, pattern)):
                left_out = not line.startswith("!")
    return left_out


def test_the_image_holds_all_code():
    assert left_out_of_the_image("figures/fig1/fig1.png") and left_out_of_the_image("a/b/.env")
    assert not [name_of(path) for path in tracked() if left_out_of_the_image(name_of(path))]


def test_the_image_hands_make_no_certificate_for_the_name_of_a_file():
    """Docker shows the argument CA, a text, to every command of the image; for make CA names a file."""
    command = re.search(r"make env .*", (HOME / "Dockerfile").read_text())[0].replace("$GPU", "")
    given = {**os.environ, "CA": "-----BEGIN CERTIFICATE-----\nMIIB"}
    for arguments, works in ((command.split()[1:], True), (["env"], False)):
        done = subprocess.run(["make", "-n", *arguments], cwd=HOME, capture_output=True, text=True, env=given)
        assert (done.returncode == 0) == works, done.stderr



EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS["test"] + EXTRAS["slurm"]]
DECLARED = {normal(line.name) for line in REQUIREMENTS if not line.marker or line.marker.evaluate()}
NOT_IMPORTED = {   # declared, and used without an import
    "jupyterlab", "snakemake", "nbval", "pytest-timeout",                # commands and plugins
    "snakemake-executor-plugin-slurm",
    "torchvision", "accelerate", "openslide-bin",                        # timm, fastai and OpenSlide use them
    "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm",   # pydicom's decoders
}


def imported_distributions():
    """The distributions whose packages the project imports, in files and notebooks."""
    packages = {name.split(".")[0] for path in PYTHON for name in imports(path)}
    for path in NOTEBOOKS:
        packages |= set(re.findall(r'"\s*(?:import|from) (\w+)', path.read_text()))
    providers = importlib.metadata.packages_distributions()
    return {normal(name) for package in packages for name in providers.get(package, ())}


def test_every_declared_dependency_is_used():
    assert DECLARED - NOT_IMPORTED <= imported_distributions()


def test_every_imported_distribution_is_declared():
    own = {module.split(".")[0] for module in MODULES} | {"pip", "setuptools"}
    assert imported_distributions() - own <= DECLARED


# ---- licences ------------------------------------------------------------------------------------

CHOSEN = {"docutils"}  # public domain and BSD; the GPL part is an Emacs mode, which the wheel does not hold


def wanted_by(requirement):
    """The distribution of a requirement and what that requires; (None, []) if it is for another platform."""
    try:
        distribution = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return None, []
    further = [Requirement(line) for line in distribution.requires or []]
    return distribution, [need for need in further if applies(need, requirement.extras)]


def applies(requirement, extras):
    """Whether the marker of a requirement holds here with these extras of the distribution that names it."""
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def runtime():
    """The distributions that the run-time dependencies bring, by following what is installed."""
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    distributions, seen = {}, set()
    while waiting:
        requirement = waiting.pop()
        key = (normal(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        distribution, further = wanted_by(requirement)
        if distribution:
            distributions[key[0]] = distribution
            waiting += further
    return distributions


def licence(distribution):
    """All that a distribution says of its licence; where it says nothing, the heads of its licence files."""
    metadata = distribution.metadata
    classifiers = [line for line in metadata.get_all("Classifier", []) if line.startswith("License ::")]
    statements = [metadata.get("License-Expression") or "", (metadata.get("License") or "")[:200]]
    statements += classifiers
    if any(statements):
        return " ".join(statements)
    files = [file for file in distribution.files or [] if re.match(r"(?i)licen[cs]e|copying", file.name)]
    return " ".join(file.read_text()[:200] for file in files)


def is_gpl(text):
    text = re.sub(r"\([^()]*\bOR\b[^()]*\)", "", text)  # a choice
    text = re.sub(r"(?i)lesser general public|library general public|LGPL[\w.-]*", "", text)
    return bool(re.search(r"(?i)\bA?GPL|general public licen[cs]e", text))


def test_gpl_is_recognised():
    assert is_gpl("GPL-3.0-only") and is_gpl("AGPL-3.0")
    assert is_gpl("License :: OSI Approved :: GNU General Public License v3 (GPLv3)")
    assert not is_gpl("LGPL-2.1-only AND (BSD-3-Clause OR GPL-2.0-only)")
    assert not is_gpl("GNU Lesser General Public License v3 (LGPLv3)")


def test_runtime_dependencies_are_not_gpl():
    licences = {name: licence(distribution) for name, distribution in runtime().items()}
    assert len(licences) > 100 and "torch" in licences
    offenders = {name for name, text in licences.items() if is_gpl(text)}
    assert offenders <= CHOSEN


def test_the_licence_is_the_whole_apache_licence():
    text = (HOME / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text and len(text.splitlines()) == 202
