"""What W&B gets of a study: by what names, which files, and when it has them."""
