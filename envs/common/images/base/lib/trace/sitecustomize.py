"""With PYTHONPATH: adds what a Python program was made of, itself and its modules, to the file $OARDOCKER_TRACE."""
import atexit
import os
import sys


def told(name=os.environ.get("OARDOCKER_TRACE")):
    files = [sys.argv[0]] + [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    with open(name, "a") as trace:
        trace.writelines(f"{file}\n" for file in files if file)


if os.environ.get("OARDOCKER_TRACE"):
    atexit.register(told)
