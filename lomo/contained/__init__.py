"""Model-written code, run where it can do nothing but compute, and judged by a test it can't see.

Only Linux's own means and Python's own library; docs/code.md says what is kept in and what is not.
"""
