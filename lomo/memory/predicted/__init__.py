"""What a step will take: the real step on tensors without bytes."""
