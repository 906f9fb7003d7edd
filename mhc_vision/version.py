"""The version of this package, and of those that a result depends on."""

__version__ = "0.2.0"


def versions() -> dict[str, str]:
    """Of this package and of those that a result depends on."""
    from importlib.metadata import version

    return {"mhc_vision": __version__, **{package: version(package) for package in ("torch", "timm", "lightning")}}
