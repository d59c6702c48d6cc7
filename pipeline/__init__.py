"""maskfleet: label millions of images with a segmentation network on Ray."""
