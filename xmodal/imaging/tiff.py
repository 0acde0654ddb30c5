"""TIFF files that must not be opened, since a library would end the process."""
import tifffile

LARGEST_TILE = 1 << 26    # pixels; OpenSlide ends the process where it has no memory for a tile


def check_tiff(path):
    """Raises ValueError for a TIFF whose tags would end the process of those who believe them.

    These are tiles of an absurd size, and entities that its XML declares. What is no TIFF passes.
    """
    with open(path, "rb") as file:
        if file.read(2) not in (b"II", b"MM"):
            return
    with tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:
            tags = page.keyframe if isinstance(page, tifffile.TiffFrame) else page
            if tags.is_tiled and tags.tilewidth * tags.tilelength > LARGEST_TILE:
                raise ValueError(f"it has tiles of {tags.tilewidth} x {tags.tilelength} pixels")
            if "<!ENTITY" in tags.description:
                raise ValueError("its description declares entities")
