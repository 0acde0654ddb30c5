"""The methods: one row of switches for each, their labels, and the groups in which figures show them.

Nothing heavy is imported, so that figures and the Snakefile can read it too.
"""
import importlib
from dataclasses import dataclass, replace

from .config import HISTOPATHOLOGY, MAMMOGRAPHY, Problem

BEFORE = "mixstyle_irm"       # ours without its alignment
CONCAT = "concat"
OURS = "ours"
ADAPTED = "ours_tta"
UNTOUCHED = "linear_probe"    # nothing is fine-tuned: a linear reader of the encoder that all begin with
LOCALISERS = ("densenet_mammography", "fusion_localiser", "ours")    # the DenseNet has a feature pyramid


@dataclass(frozen=True)
class Method:
    """A row of switches. The numbers are weights in `objective.Objective`; 0 means off."""
    mixstyle: bool = False
    irm: float = 0.0
    dro: float = 0.0
    coral: float = 0.0
    dann: float = 0.0
    align: float = 0.0
    concat: bool = False
    adapters: bool = True        # trained; else they stay the identity with which they begin
    encoder: bool = True         # trained beyond what the profile freezes
    lesion: bool = True          # alignment also of lesions, and not of whole images alone
    task_weights: bool = True    # learned (Eq. 10); else they stay at 1
    train_share: float = 1.0     # of the training patients
    callback: str = ""           # "my_methods.VRex": a fastai Callback that adds a term of one's own


FULL = Method(mixstyle=True, irm=0.1, align=0.1)
METHODS = {
    "erm": Method(),
    "irm": Method(irm=0.1),
    "groupdro": Method(dro=0.01),
    "mixstyle": Method(mixstyle=True),
    "mixstyle_irm": Method(mixstyle=True, irm=0.1),
    "coral": Method(coral=0.1),
    "dann": Method(dann=0.1),
    "ours": FULL,
    "concat": Method(mixstyle=True, irm=0.1, concat=True),   # simple concatenation, for Fig. 2f
    "align_only": Method(align=0.1),                         # ours with something left out
    "no_lesion": replace(FULL, lesion=False),
    "no_adapters": replace(FULL, adapters=False),
    "frozen_encoder": replace(FULL, encoder=False),
    "fixed_weights": replace(FULL, task_weights=False),
    "ours_25": replace(FULL, train_share=0.25),              # ours on less data, for Fig. 3l
    "ours_50": replace(FULL, train_share=0.50),
    "ours_75": replace(FULL, train_share=0.75),
}
ABLATIONS = ("align_only", "no_lesion", "no_adapters", "frozen_encoder", "fixed_weights")
ON_LESS_DATA = ("ours_25", "ours_50", "ours_75", OURS)
MAIN = tuple(name for name in METHODS if name not in {*ABLATIONS, *ON_LESS_DATA} or name == OURS)
SHARES = {name: round(100 * METHODS[name].train_share) for name in ON_LESS_DATA}    # per cent of the patients


def chosen(names, known=METHODS):
    """List of the names in `names`: "all", or names of `known` methods separated by commas. Raises `Problem`
    for another."""
    if names == "all":
        return list(known)
    names = [name.strip() for name in names.split(",")]
    for name in names:
        if name not in known:
            raise Problem(f"There is no method {name!r}; choose from {', '.join(known)}, or all.")
    return names


def own_class(name):
    """The class called "module.Class" of a file of one's own, anywhere on Python's path.

    Raises `Problem` where it cannot be loaded.
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise Problem(f"The callback {name!r} of a method cannot be loaded ({error}); write it as "
                      "module.Class and put its file into the checkout or on PYTHONPATH.") from None


CLASSIC = {   # method -> the setting that source validation chooses, and its values
    "radiomics_lr": {"C": (0.001, 0.01, 0.1)},
    "radiomics_rf": {"min_samples_leaf": (1, 4, 16)},
    "radiomics_svm": {"estimator__C": (0.1, 1.0, 10.0)},
    "radiomics_xgboost": {"max_depth": (1, 2, 4)},
    "radiomics_lightgbm": {"num_leaves": (2, 4, 16)},
    "radiomics_mlp": {"alpha": (0.01, 1.0, 10.0)},
}
NETWORKS = {  # method -> the encoder of each modality that it reads; the DenseNet is also the CNN localiser
    "vit_pathology": {HISTOPATHOLOGY: "vit"},
    "swin_mammography": {MAMMOGRAPHY: "swin"},
    "densenet_mammography": {MAMMOGRAPHY: "densenet"},
    "early_fusion": {MAMMOGRAPHY: "swin", HISTOPATHOLOGY: "vit"},
    "fusion_localiser": {MAMMOGRAPHY: "densenet", HISTOPATHOLOGY: "vit"},
}
LATE = {"late_fusion": ("swin_mammography", "vit_pathology")}
PROBE = {UNTOUCHED: {"strength": (0.001, 0.01, 0.1)}}   # ridge penalty, chosen as in `CLASSIC`
BASELINES = (*PROBE, *CLASSIC, *NETWORKS, *LATE)


# ---- labels, in the order in which figures draw ------------------------------------------------------------

METHOD_LABELS = {
    UNTOUCHED: "pretrained, untouched",
    "erm": "ERM",
    "irm": "IRM",
    "groupdro": "GroupDRO",
    "mixstyle": "MixStyle",
    BEFORE: "MixStyle+IRM",
    "coral": "CORAL",
    "dann": "DANN",
    CONCAT: "concatenation",
    OURS: "ours",
    ADAPTED: "ours, adapted",
    "align_only": "alignment alone",
    "no_lesion": "without lesion term",
    "no_adapters": "without adapters",
    "frozen_encoder": "encoder frozen",
    "fixed_weights": "fixed task weights",
}
METHOD_LABELS |= {name: name for name in MAIN if name not in METHOD_LABELS}    # a method of one's own
COMPARED = tuple(name for name in METHOD_LABELS if name not in ABLATIONS)     # in Fig. 2 and 3
BASELINE_LABELS = {  # what Fig. 1, 4 and 5 compare
    UNTOUCHED: METHOD_LABELS[UNTOUCHED],
    "radiomics_lr": "logistic regression",
    "radiomics_rf": "random forest",
    "radiomics_svm": "SVM",
    "radiomics_xgboost": "XGBoost",
    "radiomics_lightgbm": "LightGBM",
    "radiomics_mlp": "MLP",
    "late_fusion": "late fusion",
    "early_fusion": "early fusion",
    "vit_pathology": "ViT, pathology",
    "swin_mammography": "Swin, mammography",
    "densenet_mammography": "DenseNet-121, mammography",
    "fusion_localiser": "fusion",
    OURS: METHOD_LABELS[OURS],
}
