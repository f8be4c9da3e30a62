"""A study on W&B: its workspace and its report, made of what the tables are made of."""
