"""Train on ImageNet or any other configured data set; the same as `mhc-vision train`.

Example:
    python train_imagenet.py --config RECIPE.yaml --config configs/connections/mhc.yaml --data.root DIR
"""

import sys

from mhc_vision.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
