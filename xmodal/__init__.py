"""xmodal: mammography and histopathology bridged by one vision transformer. The map of the module.

The ground floor reads like the paper; the rooms named with a slash are wings, each with a map of its own.
Each file imports only from those above it in this list, and inside a wing from those above it in its map:

    config       paths, domains, seeds, profiles
    course       whether an answer to an exercise of the notebooks is right
    methods      the table of methods, their labels and groups
    runtime/     what a run stands on: whole files, checkpoints, the notebook wrapper, the doctor
    metrics/     what is measured: calibration, detection, readers, selection, survival, weighted twins
    stats        tests and intervals; resampling by patient
    cohort       the cohort table: schema, label sets, patient-level splits, leave-one-domain-out
    imaging/     pixels in, pixels out: DICOM, mammograms, slides, stains, radiomics
    tiles        tiles of a slide: drawn blind, labelled by the outlines afterwards
    preprocess   native files to the cohort table and its image arrays
    record       seeding, provenance, the run folder
    loaders      paired batches for fastai
    layers       small layers and conversions of the model
    model        shared encoder, adapters, MixStyle, necks, heads
    encoders     what a training begins from: shipped weights, timm's, a file
    activations  what the frozen part of an encoder gives, kept on disk
    losses       one function for each objective of Table 1
    objective    the losses of a method, added up
    pretrain     the reference encoder: its tasks, its training, its record
    probes       linear readers of a frozen encoder
    predict      a trained model over a cohort: predictions and embeddings
    explain      attention, retrieval, conclusion card
    learner      the fastai Learner, its callbacks, one whole run
    adapt        test-time adaptation: configure, step, reset
    stream       the same, batch by batch as they come
    adapt_run    the same for a recorded run, and for one with another mix of diagnoses
    strengths    how strong each term is, by one sweep on source validation
    scaling      what more patients bring: retrieval and AUC against their number
    faithfulness whether a map tells anything: pointing game, deletion and insertion
    baselines/   the systems that the paper compares with
    tables/      the tables behind the figures
    yours        images of one's own: read as the cohort was, and what a trained model says of each patient
    controls/    each mechanism where it must help, where it must not, and in between
    companions/  four companion systems

Data flows one way: native files -> cohort -> runs -> predictions -> panel tables -> figures. `data_scripts`
reads native files, `notebooks` call these rooms in order, `figures` draw.
"""
import contextlib
import importlib
import sys
import warnings
import zlib  # noqa: F401 (see _load_gdcm)

__version__ = "0.1.0"


def _load_gdcm():
    """Loads gdcm, one of pydicom's decoders, which would take a folder or package dl for a module of Python 2
    and break.

    It comes after zlib: gdcm brings a zlib of its own, and where the system's is loaded later, the two call
    each other and end the process.
    """
    other = sys.modules.pop("dl", None)
    sys.modules["dl"] = None  # means that there is none
    with contextlib.suppress(ImportError, OSError):  # `make doctor` names what does not load
        importlib.import_module("gdcm")
    del sys.modules["dl"]
    if other:
        sys.modules["dl"] = other


_load_gdcm()

# timm and fastai script functions when they are imported, which torch now discourages; no reader can mend it
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
