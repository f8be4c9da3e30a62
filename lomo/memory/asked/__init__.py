"""What a person asks of memory: one step, and what fits a card."""
