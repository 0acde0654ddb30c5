"""What is measured: numpy in, small named results out. The map of the wing:

    inputs         values as plain arrays of the kind that a measure needs
    calibration    probabilities that mean what they say: reliability, decision curves, conformal sets
    comparisons    two methods on the same cases: DeLong, McNemar, Student's t; families of tests
    detection      where the lesion is: overlap, average precision, free-response curves
    embeddings     how modalities and classes lie in the shared space
    miscalibration calibration error without its bias, with an interval that covers
    ordering       pairs of patients in order, counted without making them; concordance
    pooling        the score of a slide from those of its tiles
    readers        several readers reading the same cases
    selection      which run and step counts, without a look at the target
    survival       discrete-time hazards; concordance and Brier score weighted for censoring
    weighted       plain measures and their weighted twins side by side
"""
