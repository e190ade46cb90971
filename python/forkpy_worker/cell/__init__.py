"""Running one cell, from its text to the tuple that Rust reads."""
