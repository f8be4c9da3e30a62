"""What happens inside a run that trains on instructions: its data, its scores, its saved model."""
