"""What a card can compute at most, to say which share of it a model uses."""

# dense bf16 in TFLOP/s, from the makers' data sheets; the first name that the card's contains
PEAK_TFLOPS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0}


def peak_flops(name: str, tflops: float | None = None) -> float | None:
    """Floating-point operations a second of the card of this name, or None where that is not known.

    Args:
        name: As `torch.cuda.get_device_name` gives it.
        tflops: Takes the place of the table.
    """
    if tflops is None:
        tflops = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
    return None if tflops is None else 1e12 * tflops
