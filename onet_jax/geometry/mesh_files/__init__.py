"""Readers of mesh and point cloud files, one module for each format, and the encoders of those that are written."""
