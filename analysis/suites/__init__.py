"""The suites of a study: what each model scored, and what tuning changed, as one table."""
