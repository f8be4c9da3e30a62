"""What the rules and the person in front of a pipeline need beside the runs themselves."""
