"""In the style of LeNet from scratch: layers that update themselves, np.tensordot per output pixel."""
