"""xmodal: mammography and histopathology bridged by one vision transformer. The map of the module.

Each file imports only from those above it in this list:

    config       paths, domains, seeds, the two profiles
    files        files that stay whole: atomic writing, a folder held by one process
    record       seeding, provenance, what a training leaves: writing and loading of a run
    notebook     the papermill wrapper: parameters checked, failures in one sentence
    doctor       says in words what is wrong with the environment
    cohort       the cohort table: schema, label sets, patient-level splits, leave-one-domain-out
    calibration  probabilities that mean what they say: reliability, decision curves, temperature, conformal sets
    detection    where the lesion is: overlap, average precision, free-response curves
    embeddings   how modalities and classes lie in the shared space
    readers      several readers reading the same cases
    stats        numpy in, small named results out; resampling by patient
    selection    which run and step counts, without a look at the target
    survival     discrete-time hazards; concordance and Brier score weighted for censoring
    dicom        mammograms as files: grey levels, view, side, pixel spacing
    images       mammograms: pixels in, pixels out; lesion masks
    stain        colours of H&E brought to a reference: Macenko, Reinhard
    regions      slides opened, parts of them as pixels
    slides       whole slides and fields of view: tissue, tiles
    preprocess   native files to the cohort table and its image arrays
    datasheet    the data sheet of a cohort: what came in, what was left out, who is where
    loaders      paired batches for fastai
    radiomics    102 radiomic features of each stored image, computed once
    model        shared encoder, adapters, MixStyle, necks, heads
    backbones    Swin and DenseNet (a feature pyramid) in the frame of the model
    losses       one function an objective of Table 1
    predict      a trained model over a cohort: predictions and embeddings
    learner      the fastai Learner, its callbacks, the table of methods
    adapt        test-time adaptation: configure, step, reset
    baselines    the systems that the paper compares with; what a trivial reader gets from the same images
    cases        a case with its small pictures as text, so that one CSV redraws the figure
    lesions      tables of Fig. 3 j-l and Fig. 4: whom the model fails, where it sees the lesion
    explain      attention, retrieval, conclusion card; faithfulness
    browser      a case at a time, to choose in JupyterLab
    panels       the tables that the figures are drawn from
    diagnosis    those of Fig. 1: malignant or not, against radiomics
    grading      those of Fig. 5 m-r: the class of a patient; simulated readers
    companions   four companion systems, a package with a map of its own

Data flows one way: native files -> cohort -> runs -> predictions -> panel tables -> figures. `data_scripts` reads native
files, `notebooks` call these rooms in order, `figures` draw.
"""
import warnings

__version__ = "0.1.0"

# timm and fastai script functions when they are imported, which torch now discourages: nothing that a reader could mend
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
