"""What a run leaves: its schema, where it comes from, and whether it is believed."""
