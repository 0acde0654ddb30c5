"""Pixels in, pixels out. The map of the wing:

    dicom        mammograms as files: grey levels, view, side, pixel spacing
    mammograms   the breast found, cropped and scaled; lesion masks
    stain        colours of H&E brought to a reference: Macenko, Reinhard
    regions      slides opened, parts of them as pixels
    slides       whole slides and fields of view: tissue, tiles
    radiomics    102 radiomic features of each stored image, computed once
"""
