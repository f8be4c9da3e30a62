"""Operations, tokens per second, utilisation and energy."""
