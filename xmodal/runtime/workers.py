"""Processes that work through items, and outlive what ends one of them.

A native decoder can end its process on a damaged file (a segmentation fault, an abort, or the system's want
of memory), which no exception tells. So each process is given one item at a time: if it ends, that item is to
blame, and another process goes on with the next.
"""
import os
import queue
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple

from ..config import Problem

# Signals that somebody sends to a whole run: the item is not to blame.
FROM_OUTSIDE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SERVE = "import sys; from xmodal.runtime.workers import serve; serve(int(sys.argv[1]))"
GONE = (EOFError, ConnectionError)


class Died(NamedTuple):
    """In place of a result: the process that worked on the item has ended."""
    how: str                 # "by SIGSEGV" or "with exit status 3"


@contextmanager
def processes(function, n):
    """Yields a `map` that works in order, in `n` processes that are started when they are needed.

    It gives what `function` gives for each item, or `Died` for one with which its process ended. `function`
    must be importable. What it raises is raised here. Raises `Problem` where a process cannot start, or was
    ended from outside.
    """
    idle = queue.SimpleQueue()
    workers = [_Worker(function) for _ in range(max(n, 1))]
    for worker in workers:
        idle.put(worker)

    def answer(item):
        worker = idle.get()
        try:
            return worker.ask(item)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(len(workers))
    try:
        yield partial(pool.map, answer)
    finally:
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


class _Worker:
    """A process that answers one item at a time; it is started when it is needed.

    It is a fresh one, since forking a process that runs torch can hang, and it does not import the script
    that asks, which need not be guarded by `if __name__ == "__main__"`.
    """

    def __init__(self, function):
        self.function = function
        self.process = None
        self.pipe = None

    def ask(self, item):
        """What the function gives for the item, or `Died`. Raises what the function raises."""
        if self.process is not None and self.process.poll() is not None:
            self.close()                                  # it ended while it had nothing to do
        if self.process is None:
            self.start()
        try:
            self.pipe.send(item)
            is_result, answer = self.pipe.recv()
        except GONE:
            return Died(self.how_it_ended())
        if not is_result:
            raise answer
        return answer

    def start(self):
        self.pipe, far_end = Pipe()
        number = far_end.fileno()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        self.process = subprocess.Popen([sys.executable, "-c", SERVE, str(number)], env=environment,
                                        stdin=subprocess.DEVNULL, pass_fds=[number])
        far_end.close()                                   # so that the pipe ends with the process
        try:
            self.pipe.send(self.function)
            self.pipe.recv()                              # it is ready
        except GONE:
            raise Problem(f"A process that reads files could not start (it ended {self.how_it_ended()}); "
                          "see above, or run `make doctor`.") from None

    def how_it_ended(self):
        """"by SIGSEGV" or "with exit status 3". Raises `Problem` if somebody ended it."""
        status = self.process.wait()
        self.close()
        if -status in FROM_OUTSIDE:
            raise Problem(f"A process that reads files was ended from outside (by {_name(-status)}); "
                          "start again, and it goes on where it stopped.")
        return f"by {_name(-status)}" if status < 0 else f"with exit status {status}"

    def close(self):
        """Ends the process, which has nothing to do."""
        if self.process is not None:
            self.pipe.close()
            self.process.wait()
            self.process = None


def _name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def serve(number):
    """The process itself: answers each item that comes through the pipe of this number, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)          # the process that asks decides
    pipe = Connection(number)
    try:
        function = pipe.recv()
        pipe.send("ready")
        while True:
            _answer(pipe, function, pipe.recv())
    except GONE:
        return


def _answer(pipe, function, item):
    """Sends (True, result) or (False, exception) of an item."""
    try:
        answer = (True, function(item))
    except Exception as error:                            # raised on the other side
        answer = (False, error)
    try:
        pipe.send(answer)
    except GONE:
        raise
    except Exception as error:                            # it cannot be sent as it is
        pipe.send((False, RuntimeError(f"{answer[1]!r} cannot be sent ({error})")))
