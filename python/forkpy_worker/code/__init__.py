"""From the text of a cell to code objects, and back from a code object to its text."""
