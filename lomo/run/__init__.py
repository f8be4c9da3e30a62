"""What happens inside one run: prepare, train, measure, evaluate."""
