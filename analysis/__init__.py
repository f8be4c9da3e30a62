"""Records in; tables, figures, verdicts and the report out. Never imports torch."""
