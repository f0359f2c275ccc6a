"""One exception, at the interpreter's first look for one after a chosen bytecode.

CPython looks for interrupts after calls, on backward jumps and on entry to functions, and nowhere else. So the tracer
does not raise. It stops tracing (a tracer is a function too, and would be struck on entry) and arms a signal, in the
main thread, or an asynchronous exception, in others, by a subscript of a `defaultdict` whose factory is a C function:
neither a subscript nor a return is a place where the interpreter looks. What has been armed fires in the code under
test, where an interrupt would have. (An asynchronous exception for the main thread can meet a thread that it has just
started: CPython 3.11 gives both the same number until the new one runs.)
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from threading import get_ident
from types import FrameType
from typing import Any, Final, Self

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)
_set_async_exc.restype = ctypes.c_int

_set_interrupt = ctypes.pythonapi.PyErr_SetInterruptEx
_set_interrupt.argtypes = (ctypes.c_int,)
_set_interrupt.restype = ctypes.c_int

NEVER: Final = sys.maxsize
_RESUMING: Final[dict[int, Tracer]] = {}


def interrupt(ident: int, exception: type[BaseException]) -> bool:
    """Raise *exception* in the thread *ident* at its next look; False if there is no such thread."""
    return bool(_set_async_exc(ident, exception))


class Struck(BaseException):
    """What is raised; nothing that the code under test knows. Where it is caught, tracing goes on if it should."""

    def __init__(self) -> None:
        super().__init__()
        _go_on(sys._getframe(1))


class StruckExit(SystemExit):
    """The same, as what ends a thread without a word."""

    def __init__(self) -> None:
        super().__init__()
        _go_on(sys._getframe(1))


class Tracer:
    """Counts bytecodes and strikes at the one numbered *at*, then for *again* at the one so many later."""

    def __init__(self, at: int, again: tuple[int, ...] = (), exception: type[BaseException] = Struck) -> None:
        self.at = at
        self.count = 0
        self.struck: list[str] = []
        self.forever = False
        self.exception = exception
        self._again = again
        self._trigger: defaultdict[int, int] = defaultdict(int)

    def begin(self) -> None:
        """Trace this thread from the next function on, and strike it."""
        if threading.current_thread() is threading.main_thread():
            self._trigger = defaultdict(partial(_set_interrupt, signal.SIGUSR1))
        else:
            self._trigger = defaultdict(partial(_set_async_exc, get_ident(), self.exception))
        sys.settrace(self)

    def go_on(self, frame: FrameType | None) -> None:
        """Trace *frame* and its callers on, up to `strike`, after a strike."""
        while frame is not None and frame.f_code is not strike.__code__:
            if frame.f_code is not _raise_struck.__code__:
                frame.f_trace = self
                frame.f_trace_opcodes = True
            frame = frame.f_back
        sys.settrace(self)

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Tracer | None:
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.count += 1
            if self.count == self.at:
                self._strike(frame)
                return None
        return self

    def _strike(self, frame: FrameType) -> None:
        self.struck.append(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}")
        self.at = NEVER
        if self._again:
            self.at = self.count + self._again[0]
            self._again = self._again[1:]
        if self.forever or self.at < NEVER:
            _RESUMING[get_ident()] = self
        outer: FrameType | None = frame
        while outer is not None:
            outer.f_trace = None
            outer = outer.f_back
        sys.settrace(None)
        # Nothing that looks for interrupts from here to the return, and none in `__call__` behind it.
        self._trigger[self.count]


def strike(
    act: Callable[[], Any], at: int, *again: int, handler: Callable[[], Any] | None = None
) -> tuple[list[str], Any]:
    """Run *act* in the main thread and strike at its bytecode numbered *at*, and so many bytecodes *again* later.

    A strike raises `Struck`, or calls *handler* as a signal would. Gives where it struck, nothing if *act* has fewer
    bytecodes, and the outcome of *act*, errors as values.
    """
    tracer = Tracer(at, again)
    before = sys.gettrace()
    handler_before = signal.signal(signal.SIGUSR1, _raise_struck if handler is None else _calling(handler))
    outcome: Any = None
    try:
        try:
            tracer.begin()
            outcome = act()
            get_ident()  # what was armed at the last bytecode fires behind this call
        except BaseException as error:
            outcome = error
            get_ident()  # and so does a second one
    except BaseException as error:
        outcome = error
    finally:
        _RESUMING.pop(get_ident(), None)
        sys.settrace(before)
        signal.signal(signal.SIGUSR1, handler_before)
    return tracer.struck, outcome


def first_within(act: Callable[[], Any], name: str) -> int:
    """Run *act* unharmed; the number of the first bytecode that it runs in a function called *name*."""
    found: list[int] = []
    tracer = Tracer(NEVER)

    def watch(frame: FrameType, event: str, arg: Any) -> Any:
        tracer(frame, event, arg)
        if event == "opcode" and not found and frame.f_code.co_name == name:
            found.append(tracer.count)
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        act()
    finally:
        sys.settrace(before)
    return found[0]


class ThreadTracer:
    """Traces the threads that are started inside the ``with`` block; strikes those of one name when it is told to.

    Start no others in there: as long as an exception is armed for a thread that waits for a lock, CPython 3.11 keeps a
    thread that begins with a tracer looking for it, round and round.
    """

    def __init__(self, name: str, exception: type[BaseException] = Struck) -> None:
        self._name = name
        self._tracer = Tracer(NEVER, exception=exception)
        self._tracer.forever = True

    def __enter__(self) -> Self:
        threading.settrace(self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        threading.settrace(None)

    def arm(self, after: int) -> None:
        """Strike at the thread's bytecode numbered *after* from now, counted from 1."""
        self._tracer.struck.clear()
        self._tracer.at = self._tracer.count + after

    def disarm(self) -> list[str]:
        """Strike no more; where it struck."""
        self._tracer.at = NEVER
        return list(self._tracer.struck)

    def _begin(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        if threading.current_thread().name != self._name:
            sys.settrace(None)
            return None
        self._tracer.begin()
        return self._tracer(frame, event, arg)


def _raise_struck(_: int, __: FrameType | None) -> None:
    raise Struck


def _calling(handler: Callable[[], Any]) -> Callable[[int, FrameType | None], None]:
    def call(_: int, __: FrameType | None) -> None:
        handler()

    return call


def _go_on(frame: FrameType) -> None:
    tracer = _RESUMING.pop(get_ident(), None)
    if tracer is not None:
        tracer.go_on(frame)
