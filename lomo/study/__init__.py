"""What is asked of the pipeline: a study file, its plan, and what is refused."""
