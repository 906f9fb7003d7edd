"""`python -m mhc_vision`, the same as `mhc-vision`."""

from mhc_vision.cli import main

main()
