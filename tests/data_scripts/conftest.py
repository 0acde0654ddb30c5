"""Fixtures that several files of this folder use, each from the module of helpers that defines it."""
from imitations import cbis  # noqa: F401
from loopback import server  # noqa: F401
from mammogram_copies import native, people, written  # noqa: F401
from slide_copies import photos, slides  # noqa: F401
