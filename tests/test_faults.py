"A full disk, a read-only one, images that go away, signals, a second process, a lost rank, numbers that are none: one line, nothing lost."
import json, subprocess, sys
from pathlib import Path

import pytest

from kill import ENV

HERE = Path(__file__).parent

def check(rows):
    for r in rows:
        assert r['intact'] == r['tries'] and r['debris'] == 0 and r['one_line'] == r['hit'], r
        assert set(r['codes']) <= {'2', '130'} or r['name'] == 'one_rank_dies' and set(r['codes']) <= {'-9'}, r

@pytest.mark.xdist_group('faults')
def test_faults(tmp_path):
    "Each once; the runs that follow end in the bytes of one that was never disturbed."
    done = subprocess.run([sys.executable, HERE/'faults.py', '--tries', '1', '--out', tmp_path/'f.json'], env=ENV, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path/'f.json').read_text())['rows']; check(rows)
    names = {r['name']: r for r in rows}
    assert {'file_limit', 'file_in_the_way', 'input_removed', 'stopped', 'held', 'one_rank_dies', 'nan_pixels', 'nan_target', 'torn_checkpoint'} <= set(names)
    for name in ('file_in_the_way', 'held', 'nan_pixels', 'nan_target', 'torn_checkpoint'): assert names[name]['hit'] == 1, names[name]
    assert 'in use by another ogm process' in names['held']['said'] and "layer '0.0', batch 1, step" in names['nan_pixels']['said']

def test_the_committed_figures():
    rows = json.loads((HERE.parent/'nbs'/'results'/'faults.json').read_text())['rows']; check(rows)
    assert len(rows) >= 11 and all(r['tries'] >= 5 and r['hit'] >= r['tries']/2 for r in rows)
