"""What a model is: its name, architecture, weights and loss."""
