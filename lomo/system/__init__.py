"""Files, locks, processes, and what people write and read on a command line."""
