"""The search over trials: space, searcher, scheduler, record, and the commands.

In Python: `from sweep import run_sweep, load_sweep`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sweep.doors.loaded import Sweep, load_sweep
    from sweep.doors.running import run_sweep
else:

    def __getattr__(name):  # noqa: ANN001, ANN202 - PEP 562: only who asks pays for the imports
        from importlib import import_module

        home = {"Sweep": "loaded", "load_sweep": "loaded", "run_sweep": "running"}.get(name)
        if home is None:
            raise AttributeError(f"module 'sweep' has no attribute {name!r}")
        return getattr(import_module(f"sweep.doors.{home}"), name)


__all__ = ["Sweep", "load_sweep", "run_sweep"]
