"""The verbs, one file each: what the commands are a thin layer over, and what `qpipe.calibrate` etc. are."""
