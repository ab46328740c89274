"""VOC's format: the folder with its lists, and its XML files."""
