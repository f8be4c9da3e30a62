"""GGUF files: what one tells of itself, and the Hugging Face folder that is made of it."""
