"""Where the bytes of a training step are, measured; needs torch alone."""
