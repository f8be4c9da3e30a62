"""What happens inside a run that scores a model folder on a suite."""
