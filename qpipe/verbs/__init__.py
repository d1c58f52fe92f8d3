"""The verbs: what the commands are a thin layer over, one file each. `qpipe.calibrate` is `qpipe.verbs.calibrate.calibrate`."""
