"""Engines: how a model is spread over devices and an optimizer step is taken."""
