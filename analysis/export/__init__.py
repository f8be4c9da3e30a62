"""Results that travel: a study's accuracies in the formats of others, with what they come from."""
