"""YOLO's format: the reader of labels, and the files that name classes and splits."""
