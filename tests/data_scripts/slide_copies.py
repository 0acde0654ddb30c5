"""Copies of BACH and CAMELYON that the tests write: names and tables of the releases, files next to empty."""
import pytest

POLYGON = (
    '<Annotation Name="a" Type="Polygon" PartOfGroup="{}" Color="#F4FA58"><Coordinates>'
    '<Coordinate Order="1" X="9.5" Y="0" /><Coordinate Order="0" X="0" Y="0" />'
    '<Coordinate Order="2" X="9" Y="9" /></Coordinates></Annotation>'
)
IMAGESCOPE = (
    '<Annotations MicronsPerPixel="0.467500"><Annotation Id="1">'
    '<Attributes><Attribute Name="Description" Value=""/></Attributes>'
    "<Regions>{}</Regions></Annotation></Annotations>"
)


def asap(*groups):
    """The text of an ASAP file with a triangle in each of these groups."""
    polygons = "".join(POLYGON.format(group) for group in groups)
    return f"<ASAP_Annotations><Annotations>{polygons}</Annotations></ASAP_Annotations>"


def region(x0, y0, x1, y1, value="", text="", hole=0):
    """The text of a rectangular region of ImageScope."""
    corners = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))
    return (
        f'<Region Id="1" Text="{text}" NegativeROA="{hole}">'
        f'<Attributes><Attribute Name="1" Value="{value}"/></Attributes>'
        f"<Vertices>{corners}</Vertices></Region>"
    )


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "ICIAR2018_BACH_Challenge" / "Photos"
    for name in ("Normal/n001", "Benign/b001", "InSitu/is001", "Invasive/iv001"):
        put(folder / f"{name}.tif", "x")
    put(
        folder / "microscopy_ground_truth.csv",
        "n001.tif,Normal\r\nb001.tif,Benign\nis001.tif,InSitu\niv001.tif,Invasive\n",
    )
    return folder


@pytest.fixture
def slides(tmp_path):
    old = tmp_path / "CAMELYON16"
    new = tmp_path / "CAMELYON17"
    for name in ("normal_001", "tumor_001", "test_001", "test_002"):
        put(old / "images" / f"{name}.tif", "x")
    put(old / "annotations" / "tumor_001.xml", asap("Tumor", "_0", "_1", "_2", "None"))
    put(old / "annotations" / "test_001.xml", asap("_0"))
    stages = "patient,stage,center\npatient_000.zip,pN1,0\n"
    for node, stage in enumerate(("negative", "macro", "itc")):
        put(new / "images" / f"patient_000_node_{node}.tif", "x")
        stages += f"patient_000_node_{node}.tif,{stage},0\n"
    put(new / "annotations" / "patient_000_node_1.xml", asap("metastases", "normal"))
    put(new / "stages.csv", stages)
    return tmp_path
