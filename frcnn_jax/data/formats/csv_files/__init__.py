"""CSV files with one row per object, and those that are nearly such files."""
