"""Benchmark suites: what is asked of a model beside the tasks that it was trained on."""
