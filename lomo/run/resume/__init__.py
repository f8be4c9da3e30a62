"""What lets a training go on where another process has left it, bit for bit."""
