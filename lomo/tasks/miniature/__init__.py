"""A small world in words: a pretraining text, and six tasks on it in SuperGLUE's file layout."""

from lomo.tasks.miniature.superglue import write_superglue
from lomo.tasks.miniature.text import write_text

__all__ = ["write_superglue", "write_text"]
