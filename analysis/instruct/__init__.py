"""The `instruct` section of a study, whole: what methods make of held-out answers."""
