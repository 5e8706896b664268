"""Dense tasks: segmentation and detection, what their scripts in examples share."""
