"""The life of a session's process: start, end, checkpoint, and what the zygote imports for it."""
