"""Evidence about boxes from all objects of a folder."""
