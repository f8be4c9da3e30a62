"""What 16-bit weights lose of their steps: one section of a study, whole."""
