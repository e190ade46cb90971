"""What a cell shows beside what it prints: pictures, tables, results."""
