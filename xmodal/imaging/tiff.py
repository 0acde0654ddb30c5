"""TIFF files that must not be opened, since a library would end the process."""
import tifffile

LARGEST_TILE = 1 << 26    # pixels; OpenSlide ends the process where it has no memory for a tile
WITH_XML = (270, 700)     # tags that may hold XML: ImageDescription and XMP


def check_tiff(path):
    """Raises ValueError for a TIFF whose tags would end the process of a library that trusts them.

    These are tiles of an absurd size, and entities that its XML declares. What is no TIFF passes.
    """
    with open(path, "rb") as file:
        if file.read(2) not in (b"II", b"MM"):
            return
    with tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:
            _check_page(page.keyframe)


def _check_page(page):
    if page.is_tiled and page.tilewidth * page.tilelength > LARGEST_TILE:
        raise ValueError(f"it has tiles of {page.tilewidth} x {page.tilelength} pixels")
    for code in WITH_XML:
        for tag in page.tags.getall(code, default=[]):
            if "<!ENTITY" in str(tag.value):              # text or bytes
                raise ValueError("its XML declares entities")
