"""The report: one self-contained page of a study."""
