"""YOLO's format: labels, and the files that name classes and splits."""
