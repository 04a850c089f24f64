"""Names of devices as users write them."""

import pytest

from instructbrush.core.devices import named_device
from instructbrush.core.errors import DeviceError


def test_accepts_and_rejects_names_of_devices() -> None:
    assert named_device("cpu").type == "cpu"
    assert named_device("auto").type in ("cpu", "cuda", "mps", "xpu")
    assert named_device(" CPU ") == named_device("cpu:0") == named_device("cpu")
    with pytest.raises(DeviceError, match=r"Device 'toaster' is not known to torch\. This machine has cpu"):
        named_device("toaster")
    with pytest.raises(
        DeviceError,
        match=r"Device 'cuda:99' was not found, or this torch was not built for it\. This machine has cpu",
    ):
        named_device("cuda:99")
    for name in ("GPU:99", "cpu:7", "meta"):
        with pytest.raises(DeviceError, match=f"Device '{name}' was not found"):
            named_device(name)
    for name in ("", "0", "cuda:", "gpux"):
        with pytest.raises(DeviceError, match=f"Device '{name}' is not known to torch"):
            named_device(name)
