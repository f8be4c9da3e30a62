"""The optimizers against torch's own, and against slow references written from the papers."""
