"""Saved figures as small pictures, for notebooks that are to stay under 1 MB."""
from xmodal import config


def on_screen(name, width=850, colours=128):
    """figures/fig5/fig5_numbers.png for "fig5_numbers", `width` pixels wide and in so few colours that it takes a third of the room."""
    from PIL import Image
    picture = Image.open(config.FIGURES / name.partition("_")[0] / f"{name}.png").convert("RGB")
    picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    return picture.quantize(colours, Image.Quantize.MAXCOVERAGE)          # keeps the colours of thin lines
