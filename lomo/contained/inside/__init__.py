"""What runs contained, by Python's own library alone: it is seen there as the package `inside`."""
