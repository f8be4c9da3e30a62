"""What is said of a chance: intervals, paired tests, corrections, in one place."""
