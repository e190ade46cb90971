"""The session's variables: their summaries, and how they are saved and loaded."""
