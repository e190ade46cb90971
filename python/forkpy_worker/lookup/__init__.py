"""Completion and inspection: the answers to questions about code that does not run."""
