"""Section `suites` of a study: what it may say, and the runs that it asks for. No torch."""
