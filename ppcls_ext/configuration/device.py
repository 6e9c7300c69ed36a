"""The device to run on."""

from __future__ import annotations

from ppcls_ext.errors import PpclsExtError


def choose_device(wanted: str | None) -> str:
    """The device to run on: for "auto" (or nothing) the GPU where Paddle sees one, else the CPU.

    Raises:
        PpclsExtError: the device asked for is not there.
    """
    import paddle

    names = [*paddle.device.get_available_device(), *(paddle.device.get_available_custom_device() or ())]
    available = {"cpu", *(name.split(":")[0] for name in names)}
    if wanted in (None, "auto"):
        return "gpu" if "gpu" in available else "cpu"
    if wanted not in available:
        raise PpclsExtError(
            f"Global.device is {wanted!r}, and this Paddle sees only {', '.join(sorted(available))}: "
            "use one of these or auto"
        )
    return wanted
