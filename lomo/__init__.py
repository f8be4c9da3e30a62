"""Full-parameter fine-tuning in the memory of inference: what happens inside one run."""
