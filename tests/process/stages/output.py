"""What stages print and log, in many ways."""

from __future__ import annotations

import os
import sys
from typing import Any

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item, die

# ---- printed without a flush, before a sudden death ---------------------------------------------------------


def print_and_die(value: Any) -> None:
    print("last words")
    die()


def print_unfinished_and_die(value: Any) -> None:
    print("last words", end="")
    die()


def write_bytes_and_die(value: Any) -> None:
    sys.stdout.buffer.write(b"last words\n")
    die()


def print_in_c_and_die(value: Any) -> None:
    import ctypes

    ctypes.CDLL(None).printf(b"last words\n")
    die()


def log_and_die(value: Any) -> None:
    import logging

    logging.getLogger("mine").warning("last words")
    die()


def log_with_loguru_and_die(value: Any) -> None:
    from loguru import logger

    logger.info("last words")
    die()


def print_any_text(value: Any) -> Any:
    print("ü✓", value)
    print("ü✓", value, file=sys.stderr)
    return value


# ---- in order and whole -------------------------------------------------------------------------------------


def say_in_order(value: Any) -> Any:
    import logging

    from loguru import logger

    for n in range(0, 50, 5):
        print(f"line {n}")
        logging.getLogger("mine").error("line %d", n + 1)
        print(f"line {n + 2}", file=sys.stderr)
        logger.info("line {}", n + 3)
        os.write(1, f"line {n + 4}\n".encode())
    return value


def print_in_threads(count: int) -> int:
    from threading import Thread

    def say(name: str) -> None:
        for n in range(count):
            print(name * 10, n)

    threads = [Thread(target=say, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count


def print_in_a_pool(count: int) -> int:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(print_number, range(count), chunksize=1)
        pool.close()
        pool.join()
    return count


def print_number(n: int) -> None:
    print("number", n)


def print_a_long_line(length: int) -> int:
    print("x" * length)
    return length


def draw_a_progress_bar(steps: int) -> int:
    for step in range(steps + 1):
        print(f"\rstep {step}/{steps}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return steps


def log_in_a_child(value: Any) -> Any:
    """Log in a forked process."""
    import logging

    pid = os.fork()
    if pid == 0:
        logging.getLogger("mine").warning("of the child")
        os._exit(0)
    os.waitpid(pid, 0)
    return value


# ---- the standard library's logging -------------------------------------------------------------------------


class LogsAtEveryLevel(ProcessingStage[Item, Item]):
    """Logs at five levels, after ``configure`` has run in ``setup``."""

    name = "logs"
    resources = Resources(cpus=0.25)

    def __init__(self, configure: Any, logger_name: str = "mine") -> None:
        import logging

        self.configure = configure
        self.log = logging.getLogger(logger_name)  # arrives as the worker's own

    def setup(self, worker_metadata: Any = None) -> None:
        self.configure()

    def process(self, task: Item) -> Item:
        import threading

        for level in ("debug", "info", "warning", "error"):
            getattr(self.log, level)("at %s of %s", level, type(threading.Lock()).__name__)
        try:
            {}["nothing there"]
        except KeyError:
            self.log.exception("caught")
        return task


def leave_unconfigured() -> None:
    pass


def configure_basically() -> None:
    import logging

    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(message)s", force=True)


def add_a_console_of_the_librarys_own() -> None:
    """Do as transformers does: a handler of its own, and nothing passed on to the root."""
    import logging

    logger = logging.getLogger("mine")
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.propagate = False


def print_what_is_logged() -> None:
    """Add a handler that prints, as those of tqdm and rich do."""
    import logging

    class Prints(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("log:", self.format(record))

    logging.getLogger().addHandler(Prints())


def pass_on_to_loguru() -> None:
    import logging

    class Intercepts(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            from loguru import logger

            logger.log(record.levelname, record.getMessage())

    logging.getLogger().addHandler(Intercepts())


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def log_what_does_not_fit(value: Any) -> Any:
    import logging

    logging.getLogger("mine").warning("%d pages", "many")
    logging.getLogger("mine").error("page %s", Odd())
    return value


# ---- loguru -------------------------------------------------------------------------------------------------


class LogsWithLoguru(ProcessingStage[Item, Item]):
    """Holds a logger, and logs with it after ``configure`` has run in ``setup``."""

    name = "loguru"
    resources = Resources(cpus=0.25)

    def __init__(self, configure: Any) -> None:
        from loguru import logger

        self.configure = configure
        self.log = logger.bind(job=7)

    def setup(self, worker_metadata: Any = None) -> None:
        from loguru import logger

        self.configure(logger)

    def process(self, task: Item) -> Item:
        self.log.debug("at debug")
        self.log.opt(record=True).warning("at {record[level].name}\nin two lines")
        try:
            {}["nothing there"]
        except KeyError:
            self.log.exception("caught")
        self.log.complete()
        return task


def leave_loguru(logger: Any) -> None:
    pass


def replace_by_stderr(logger: Any) -> None:
    logger.remove()
    logger.add(sys.stderr, format="{level} | {message}")


def replace_by_stdout_as_json(logger: Any) -> None:
    logger.configure(handlers=[{"sink": sys.stdout, "serialize": True}])


def add_several_consoles(logger: Any) -> None:
    logger.add(sys.stdout, colorize=True)
    logger.add(sys.__stderr__)
    logger.add(sys.stderr.write)


def use_a_queue(logger: Any) -> None:
    logger.remove()
    logger.add(sys.stderr, enqueue=True)


def add_a_file(logger: Any) -> None:
    logger.add("/dev/null")


def pass_on_to_logging(logger: Any) -> None:
    import logging

    class Propagates(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logging.getLogger(record.name).handle(record)

    logger.add(Propagates(), format="{message}")


def show_warnings_only(logger: Any) -> None:
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
