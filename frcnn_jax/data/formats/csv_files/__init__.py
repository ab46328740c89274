"""CSV files: their first rows and columns, and those that are nearly in the format."""
