"""Tasks: one lm-eval YAML each, the reader of SuperGLUE's files, and the generated miniature."""
