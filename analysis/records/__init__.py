"""Records in: read, believed, one tidy table; what is best, and what may be compared."""
