import logging
import warnings

import pytest

from qpipe.ir.files.quiet import quiet


def test_libraries_are_silent_inside_and_as_before_after(caplog):
    logger = logging.getLogger("some.library")
    logger.setLevel(logging.INFO)
    with quiet("some"), quiet("some.library"):
        logger.warning("inside")
        logger.error("an error")
        warnings.warn("inside", stacklevel=1)
    assert [record.message for record in caplog.records] == ["an error"]
    assert logger.level == logging.INFO
    with pytest.warns(UserWarning, match="after"):
        warnings.warn("after", stacklevel=1)


def test_levels_come_back_after_an_error():
    logger = logging.getLogger("other.library")
    with pytest.raises(ValueError, match="inside"), quiet("other.library"):
        raise ValueError("inside")
    assert logger.level == logging.NOTSET
