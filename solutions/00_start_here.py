"""Solutions of 00_start_here."""
ANSWERS = {"00-1": 256 / 0.25}      # micrometres of a tile over micrometres of a pixel


def malignant(p):
    """In situ or invasive: the last two of four classes exclude each other, so their probabilities add up."""
    return p[2] + p[3]


ANSWERS["00-2"] = malignant
