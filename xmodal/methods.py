"""The methods: one row of switches for each, their labels, and the groups in which figures show them.

Nothing heavy is imported, so that figures and the Snakefile can read it too.
"""
from dataclasses import dataclass

from .config import HISTOPATHOLOGY, MAMMOGRAPHY, Problem

BEFORE = "mixstyle_irm"       # ours without its alignment
CONCAT = "concat"
OURS = "ours"
ADAPTED = "ours_tta"
UNTOUCHED = "linear_probe"    # a linear probe on the pretrained encoder as it is: what training has to beat
ABLATIONS = ("no_adapters", "frozen_encoder", "no_lesion", "fixed_weights", "align_only")     # of ours
LOCALISERS = ("densenet_mammography", "fusion_localiser", "ours")    # the DenseNet has a feature pyramid


@dataclass(frozen=True)
class Method:
    """A row of switches. The numbers are weights in `losses.Objective`; 0 means off."""
    mixstyle: bool = False
    irm: float = 0.0
    dro: float = 0.0
    coral: float = 0.0
    dann: float = 0.0
    align: float = 0.0
    concat: bool = False
    train_share: float = 1.0     # of the training patients


METHODS = {
    "erm": Method(),
    "irm": Method(irm=1.0),
    "groupdro": Method(dro=0.01),
    "mixstyle": Method(mixstyle=True),
    "mixstyle_irm": Method(mixstyle=True, irm=1.0),
    "coral": Method(coral=1.0),
    "dann": Method(dann=0.1),
    "ours": Method(mixstyle=True, irm=1.0, align=0.1),
    "concat": Method(mixstyle=True, irm=1.0, concat=True),   # simple concatenation, for Fig. 2f
    "ours_25": Method(mixstyle=True, irm=1.0, align=0.1, train_share=0.25),  # ours on less data, for Fig. 3l
    "ours_50": Method(mixstyle=True, irm=1.0, align=0.1, train_share=0.50),
    "ours_75": Method(mixstyle=True, irm=1.0, align=0.1, train_share=0.75),
}
MAIN = tuple(name for name, method in METHODS.items() if method.train_share == 1)    # trained with every seed
ON_LESS_DATA = ("ours_25", "ours_50", "ours_75", OURS)  # of Fig. 3l; three of them with one seed only
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
BASELINES = (*CLASSIC, *NETWORKS, *LATE)


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
}
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
