"""The command `advise`: what fits a card, how fast, and what is known of its accuracy."""
