"""Solutions of 01_download."""
ANSWERS = {"01-1": 2 * 1000 - 1024}     # slope * stored + intercept


def windowed(value, center, width):
    """DICOM PS3.3 C.11.2.1.2.1, from 0 (black) to 1 (white)."""
    grey = (value - (center - 0.5)) / (width - 1) + 0.5
    return min(max(grey, 0), 1)


ANSWERS["01-2"] = windowed
