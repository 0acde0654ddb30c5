"""What can be read in a drawing."""
import matplotlib.text


def text_of(artist):
    """All text in a figure, or in the panel of an Axes."""
    return " ".join(text.get_text() for text in artist.findobj(matplotlib.text.Text))
