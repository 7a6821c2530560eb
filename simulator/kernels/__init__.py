"""How long kernels run: a closed form for each family, over arrays of shapes and devices."""
