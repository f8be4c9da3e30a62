"""Never gets to its function."""

while True:
    pass
