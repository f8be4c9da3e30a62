"""What the paper prints, beside what is predicted at its size."""
