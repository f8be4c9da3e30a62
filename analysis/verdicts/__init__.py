"""What is said of each printed number and claim."""
