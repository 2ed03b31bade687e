"No name is unused or undefined, in the package, the tools and the tests."
import subprocess, sys

import pytest

from conftest import ROOT

def test_ruff_finds_nothing():
    pytest.importorskip('ruff', reason='pip install ruff')
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--isolated', '--no-cache', '--select', 'F', '--output-format', 'concise', 'ogm', 'tools', 'tests'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
