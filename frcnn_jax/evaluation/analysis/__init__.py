"""Measures besides the average precision: kinds of errors, recall by size, the best score."""
