"""Pixels in, pixels out. The map of the wing:

    decoding     DICOM files read and decoded within limits, whatever the transfer syntax
    display      stored values to grey levels as a viewer shows them first
    dicom        mammograms as files: grey levels, view, side, pixel spacing
    photos       photographs, ultrasound, mammograms saved as pictures: formats and sizes that are opened
    mammograms   finding the breast, cropping and scaling it; lesion masks
    stain        colours of H&E brought to a reference, by Macenko or Reinhard
    tiff         TIFF files refused that would end the process
    regions      slides opened, parts of them as pixels
    outlines     the area that outlines on slides enclose, with holes and nests in holes
    slides       whole slides and fields of view: tissue, tiles
    radiomics    102 radiomic features of each stored image, computed once
"""
