"""FAQ on CIFAR-10: the paper's Table 2 and section 4.9 on ResNet-20, and what else moves a 4-bit network.

Rows are named by what they change; `--rows` picks some, as in `--rows "4/4, FAQ*"`. See `experiments.py`.
"""

import typer
from experiments import reproduction
from faq_rows import ROWS

if __name__ == "__main__":
    example = 'reproduce_faq.py resnet20.onnx cifar10.npz artifacts/faq --rows "8/8*"'
    typer.run(reproduction(ROWS, "faq_cifar10", seeds=1, example=example))
