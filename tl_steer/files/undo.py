"""What was changed is put back, whenever Ctrl-C is pressed and however often.

`finally` alone does not promise that. Python raises KeyboardInterrupt between any two steps: inside
a clean-up, whose rest is then skipped, or between a change and the `try` that would undo it. Here

- an undoing is registered *before* its change, and may be done twice;
- clean-ups run inside `contextlib.ExitStack`, which goes on to the next when one is interrupted;
  each is registered three times, of which one has to come through;
- while they run, Ctrl-C is held back, and raised when they are done;
- scopes know those opened inside them, so whoever ends last puts back what a broken one left.

Ctrl-C is held back in the main thread only, where Python raises it.
"""

import _thread
import functools
import inspect
import signal
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ContextDecorator, ExitStack
from types import FrameType
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

_TIMES = 3
_CLEANING = (ExitStack.__exit__.__code__, ExitStack.close.__code__)
_held: list[int] = []
_previous: list[Any] = [signal.default_int_handler]
_here = threading.local()
_Reference: TypeAlias = "weakref.ref[Scope]"
_Scopes: TypeAlias = dict[int, "weakref.ref[Scope]"]


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    at = frame
    while at is not None:
        if at.f_code in _CLEANING and isinstance(at.f_locals.get("self"), Scope):
            _held.append(number)
            # For those that no scope's end raises, as in one that is deleted.
            threading.Timer(0.02, _ask_again).start()
            return
        at = at.f_back
    _held.clear()
    _previous[0](number, frame)


def _ask_again() -> None:
    if _held:
        _held.clear()
        _thread.interrupt_main()


def _raise_held() -> None:
    if _held:
        _held.clear()
        _previous[0](signal.SIGINT, None)


def _give_back() -> None:
    if not _alive(_open_here()) and signal.getsignal(signal.SIGINT) is _on_interrupt:
        signal.signal(signal.SIGINT, _previous[0])


def _nothing() -> None:
    pass


class Scope(ExitStack):
    """An `ExitStack` whose clean-ups survive interrupts."""

    _exit_callbacks: Any = ()  # until `__init__` came that far
    _inner: _Scopes | None
    _parent: "_Reference | None"
    _beside: _Scopes

    def __enter__(self) -> Any:
        try:
            self._open()
            return self
        except BaseException:
            self.close()
            raise

    def alone(self) -> None:
        """From now on the scope around does not close this one: they may end in any order."""
        self._beside.pop(id(self), None)

    def undo(self, function: Callable[..., object], *args: object) -> None:
        """Call `function(*args)` at the end, in reverse order; register it before the change that
        it undoes. It may be called again when it was interrupted."""
        self._inner = None  # scopes opened from now on are closed before this
        once = _Once(function, args)
        for _ in range(_TIMES):
            self.callback(once)

    def _open(self) -> None:
        self._inner = None
        around, parent = _open_here(), innermost()
        self._parent = None if parent is None else weakref.ref(parent)
        if threading.current_thread() is threading.main_thread():
            self._hold()
        self._kept_in(around)
        self._beside = {} if parent is None else parent._children()
        self._kept_in(self._beside)

    def _hold(self) -> None:
        """What is registered here comes last of all."""
        for _ in range(_TIMES):
            self.callback(self._last)
        self.undo(_give_back)
        now = signal.getsignal(signal.SIGINT)
        if now is not _on_interrupt and callable(now):  # else it is ours already, or ignored
            _previous[0] = now
            signal.signal(signal.SIGINT, _on_interrupt)

    def _kept_in(self, scopes: _Scopes) -> None:
        self.undo(scopes.pop, id(self), None)
        scopes[id(self)] = weakref.ref(self)

    def _children(self) -> _Scopes:
        """Scopes opened since the last undoing was registered."""
        found = self._inner
        if found is None:
            found = self._inner = {}
            for _ in range(_TIMES):
                self.push(functools.partial(self._left_open, found))
        return found

    @staticmethod
    def _left_open(scopes: _Scopes, *_error: object) -> None:
        for scope in _alive(scopes):
            scope.__exit__(GeneratorExit, GeneratorExit(), None)

    _last = staticmethod(_raise_held)

    # Nobody can close it any more: what is left of an interrupt while it was being opened. No line
    # of ours, since an exception out of here is lost.
    __del__ = ExitStack.close


class _Opening(Scope):
    """A scope around setting another up: what an error leaves of that one is put back, and without
    an error it stays open."""

    # No error may come at the end any more.
    _last = staticmethod(_nothing)

    def _children(self) -> _Scopes:
        new = self._inner is None
        scopes = super()._children()
        for _ in range(_TIMES if new else 0):
            self.push(functools.partial(self._hand_over, scopes))
        return scopes

    def _hand_over(self, scopes: _Scopes, *error: object) -> None:
        _raise_held()
        around = None if self._parent is None else self._parent()
        if error[0] is None and around is not None:
            for scope in _alive(scopes):
                scope._kept_in(around._children())

    @staticmethod
    def _left_open(scopes: _Scopes, *error: object) -> None:
        if error[0] is not None:
            Scope._left_open(scopes)


class _Opened(Scope):
    """What `scoped` returns."""

    def __init__(self, setup: Callable[[Scope], Any]) -> None:
        super().__init__()
        self._setup = setup

    def __getattr__(self, name: str) -> Any:
        hint = "" if name.startswith("_") else ": write `with ... as model:`, and use that inside"
        raise AttributeError(f"{name!r} is not here, as nothing is done before the block{hint}")

    def _set_up(self) -> Any:
        Scope.__enter__(self)
        setup, self._setup = self._setup, _used
        return setup(self)


class _Call(Scope):
    """A scope around a whole call, which puts the gradient mode back, too."""

    def _open(self) -> None:
        super()._open()
        self.undo(torch.set_grad_enabled, torch.is_grad_enabled())


class _Around(ContextDecorator):
    """Runs a function inside a scope. The `with` is the standard library's, which the interrupts
    above do not leave half-done."""

    def __init__(self, scope: type[Scope]) -> None:
        self._scope = scope

    def _recreate_cm(self) -> Any:
        return self._scope()

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


_Opened.__enter__ = _Around(_Opening)(_Opened._set_up)  # type: ignore[assignment, method-assign]


def scoped(setup: Callable[Concatenate[Scope, P], T]) -> Callable[P, AbstractContextManager[T]]:
    """Make a context manager of a function that changes things and registers their undoing.

    The function gets the scope first; what it returns is what `with ... as` gives.
    """

    @functools.wraps(setup)
    def opened(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T]:
        return _Opened(lambda scope: setup(scope, *args, **kwargs))

    whole_one = inspect.signature(setup)
    opened.__signature__ = whole_one.replace(  # type: ignore[attr-defined]
        parameters=list(whole_one.parameters.values())[1:]
    )
    return opened


def whole(function: Callable[P, T]) -> Callable[P, T]:
    """A function that leaves nothing changed behind, whatever becomes of the scopes in it."""
    return _Around(_Call)(function)


class _Once:
    def __init__(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        self._todo: tuple[Callable[..., object], tuple[object, ...]] | None = (function, args)

    def __call__(self) -> None:
        if self._todo is not None:
            function, args = self._todo
            function(*args)
            self._todo = None


def innermost() -> Scope | None:
    """The scope of this thread that was opened last."""
    return next(iter(_alive(_open_here())), None)


def _open_here() -> _Scopes:
    found: _Scopes = _here.__dict__.setdefault("open", {})
    return found


def _alive(scopes: _Scopes) -> list[Scope]:
    """The newest first."""
    found = [reference() for reference in reversed(list(scopes.values()))]
    return [scope for scope in found if scope is not None]


def _used(_: Scope) -> Any:
    raise RuntimeError("This context manager was used before; make another.")
