"""Signals as the kernel has them, as numbers, without the module `signal`.

That makes enumerations of them: see `sockets` for what an import costs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import (
        SIG_BLOCK,
        SIG_DFL,
        SIG_IGN,
        SIG_SETMASK,
        SIGCHLD,
        SIGCONT,
        SIGINT,
        SIGKILL,
        SIGPIPE,
        SIGSTOP,
        SIGXFSZ,
        getsignal,
        pthread_sigmask,
        signal,
        valid_signals,
    )
else:
    from _signal import (
        SIG_BLOCK,
        SIG_DFL,
        SIG_IGN,
        SIG_SETMASK,
        SIGCHLD,
        SIGCONT,
        SIGINT,
        SIGKILL,
        SIGPIPE,
        SIGSTOP,
        SIGXFSZ,
        getsignal,
        pthread_sigmask,
        signal,
        valid_signals,
    )

__all__ = [
    "SIGCHLD",
    "SIGCONT",
    "SIGINT",
    "SIGKILL",
    "SIGPIPE",
    "SIGSTOP",
    "SIGXFSZ",
    "SIG_BLOCK",
    "SIG_DFL",
    "SIG_IGN",
    "SIG_SETMASK",
    "getsignal",
    "pthread_sigmask",
    "signal",
    "valid_signals",
]
