"""Where the bytes of a training step are: measured, or predicted without a run."""
