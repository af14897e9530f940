"""Report of one graded pytest run: a JSON line a record, flushed as it happens.

Loaded with ``-p`` before any code of the repository. Runs on Python 3.6 and later with pytest 5 to 9, so no newer syntax.
The environment variable SWEROLL_REPORT holds a JSON object with the paths ``ids`` and ``report`` and the ``nonce`` that
marks every record. Where it is missing (a worker process of a plugin, say) all of this does nothing.
"""

import json
import os
import sys

import pytest


class Report(object):
    def __init__(self, settings):
        self.pid = os.getpid()
        self.nonce = settings["nonce"]
        self.count = 0
        with open(settings["ids"], encoding="utf-8") as file:
            self.index = {}
            for number, test_id in enumerate(json.load(file)):
                if test_id is not None:  # an id that needs no run
                    self.index.setdefault(test_id, number)
        self.file = os.open(settings["report"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, what, **fields):
        if os.getpid() != self.pid:
            return  # a test forked, and its child runs our hooks too
        fields.update(nonce=self.nonce, seq=self.count, what=what)
        line = (json.dumps(fields) + "\n").encode("ascii")
        while line:
            line = line[os.write(self.file, line) :]
        self.count += 1


def _open_report():
    settings = os.environ.pop("SWEROLL_REPORT", None)
    if settings is None:
        return None
    here = os.path.dirname(os.path.abspath(__file__))
    # What the tests start must see the image's own environment.
    rest = [path for path in os.environ.pop("PYTHONPATH", "").split(os.pathsep) if path and path != here]
    if rest:
        os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    sys.path[:] = [path for path in sys.path if path != here]
    return Report(json.loads(settings))


_report = _open_report()

if _report is not None:

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(session):
        _report.write("begin", pytest=str(pytest.__version__), python="%d.%d.%d" % sys.version_info[:3])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(config, items):
        listed = [item for item in items if item.nodeid in _report.index]
        unlisted = [item for item in items if item.nodeid not in _report.index]
        listed.sort(key=lambda item: _report.index[item.nodeid])
        items[:] = listed
        if unlisted:
            config.hook.pytest_deselected(items=unlisted)
        _report.write("collected", listed=len(listed), unlisted=len(unlisted))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(nodeid, location):
        test = _report.index.get(nodeid)
        if test is not None:
            _report.write("start", test=test)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(report):
        test = _report.index.get(report.nodeid)
        if test is None:
            return
        # Only reports of subtests have a context.
        _report.write(
            "test",
            test=test,
            when=str(report.when),
            outcome=str(report.outcome),
            xfail=hasattr(report, "wasxfail"),
            sub=hasattr(report, "context"),
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(exitstatus):
        _report.write("end", exit=int(exitstatus))
