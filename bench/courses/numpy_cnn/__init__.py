"""In the style of Numpy-CNN: one image at a time, loops over filters and windows."""
