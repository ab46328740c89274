"""Matching of annotations and images: whose image is meant, and ids."""
