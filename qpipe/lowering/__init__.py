"""What the lowerings of all ops share: the two builders, patches of images, both ends, marks for the gate."""
