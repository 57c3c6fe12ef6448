"""Raise the limit of open files: a training run of a thousand ranks has a thousand files, and each stays open while it is read."""

from __future__ import annotations

SPARE = 256  # for everything else: the kernel's sockets, the libraries


def allow_open_files(count: int) -> None:
    """Raise the limit of this process if it is too low for so many files, as far as the system allows."""
    try:
        import resource  # here: Windows does not have it, nor such a limit
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
