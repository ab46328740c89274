"""COCO's format: the reader, and the boxes of its annotations."""
