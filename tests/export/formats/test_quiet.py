import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ssdlite.errors import CheckpointError, DataError
from ssdlite.export.formats.base import suppress_output


def test_nothing_reaches_the_screen_neither_from_python_nor_from_below(capfd):
    with suppress_output("conversion"):
        print("progress")
        logging.getLogger("converter").error("advice")
        os.write(2, b"a line of C++")
    print("after")
    captured = capfd.readouterr()
    assert captured.out == "after\n" and captured.err == ""


def test_an_error_is_one_sentence_about_its_first_cause():
    with (
        pytest.raises(CheckpointError, match=r"^conversion failed: no kernel for\s+aten::x$"),
        suppress_output("conversion"),
    ):
        try:
            raise ValueError("no kernel for\naten::x")
        except ValueError as error:
            raise RuntimeError("3,000 lines of graph") from error


def test_errors_for_people_pass_as_they_are():
    with pytest.raises(DataError, match=r"^no images$"), suppress_output("conversion"):
        raise DataError("no images")


def test_logging_is_as_before(caplog):
    with suppress_output("conversion"):
        pass
    logging.getLogger("converter").warning("heard again")
    assert "heard again" in caplog.text


def test_threads_that_are_quiet_at_once_leave_everything_as_it_was(capfd):
    both = threading.Barrier(2, timeout=0.5)

    def work():
        with suppress_output("conversion"):
            try:
                both.wait()  # never: the other is not let in
            except threading.BrokenBarrierError:
                return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert [task.result() for task in [pool.submit(work), pool.submit(work)]] == [False, False]
    print("after")
    assert capfd.readouterr().out == "after\n" and logging.root.manager.disable == 0
