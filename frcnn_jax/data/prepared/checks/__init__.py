"""Faults of images and splits: what is kept, what stops, and the report."""
