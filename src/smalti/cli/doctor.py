"""`smalti doctor`: is everything here that smalti needs?"""

from __future__ import annotations

import platform
import sys


def doctor() -> None:
    """Print versions, devices and the state of the built-in models."""
    import torch

    from smalti import __version__
    from smalti.builtin import builtin_models
    from smalti.formats.folder import verify

    print(f"smalti   {__version__}")
    print(f"python   {platform.python_version()} ({sys.platform}, {platform.machine()})")
    print(f"torch    {torch.__version__}, {torch.get_num_threads()} threads")
    mps = torch.backends.mps.is_available()
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    print(f"devices  cpu{', mps' if mps else ''}{f', cuda ({cuda})' if cuda else ''}")
    for name, folder in builtin_models().items():
        verify(folder)
        print(f"model    builtin:{name} ok")
