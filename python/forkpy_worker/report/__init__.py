"""How a cell ended, in words: tracebacks, error messages, hints."""
