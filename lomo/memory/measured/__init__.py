"""What a step took: the ledger and its meter."""
