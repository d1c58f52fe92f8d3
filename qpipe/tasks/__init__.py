"""What networks are for, as one description: which output counts, which loss trains it, which metric judges it.

`derive` finds it from the outputs, the labels and what the user says; `train` and `runtime` are told a `Task`.
"""
