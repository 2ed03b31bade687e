"Killed at any moment and started again, a run ends in the same bytes; asked to stop, it says so in one line."
import json, os, re, signal, subprocess, sys, time
from pathlib import Path

import pytest

from kill import DISTILL, ENV, contents, step_of
from ogm.core import debris

HERE = Path(__file__).parent
pytestmark = pytest.mark.xdist_group('kill')

def loop(tmp_path, *words, timeout=280):
    done = subprocess.run([sys.executable, HERE/'kill.py', '--out', tmp_path/'kill.json', *map(str, words)], env=ENV, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((tmp_path/'kill.json').read_text())['rows']

@pytest.mark.parametrize('ranks,kills', [(1, 6), (2, 3)])
def test_killed_and_resumed_is_byte_identical(tmp_path, ranks, kills):
    "Real processes, SIGKILL, in every step of the road and inside writes."
    steps = [] if ranks == 1 else ['--steps', 'teacher,synthesis,evaluation']
    [row] = loop(tmp_path, '--fork', '--kills', kills, '--ranks', ranks, '--seed', ranks, *steps)
    assert row['kills'] >= kills and row['differ'] == [] and row['identical'] == row['runs'] and row['files'] > 40

@pytest.mark.slow
@pytest.mark.skipif('OGM_SLOW' not in os.environ, reason='a quarter of an hour: OGM_SLOW=1')
def test_killed_twenty_times(tmp_path):
    for row in loop(tmp_path, '--kills', 20, '--ranks', '1,2', timeout=3000): assert row['kills'] >= 20 and row['torn'] > 0 and row['identical'] == row['runs']

def test_the_committed_figures(results=HERE.parent/'nbs'/'results'/'kill.json'):
    "What the page shows was made by that loop, and nothing was lost."
    rows = json.loads(results.read_text())['rows']; assert {('torchrun', 2), ('forked', 1), ('forked', 2)} <= {(r['start'], r['ranks']) for r in rows}
    for n in (1, 2): assert sum(r['kills'] for r in rows if r['ranks'] == n) >= 20
    for r in rows: assert r['kills'] >= 6 and r['torn'] > 0 and r['identical'] == r['runs'] and not r['differ'] and sum(s['killed'] for s in r['steps'].values()) == r['kills'] and all(s['killed'] for s in r['steps'].values())

def stop(tmp_path, sig, until, *words, env=ENV):
    "Starts a run, sends `sig` when `until(run)` holds; returns (exit code, lines on stderr)."
    p = subprocess.Popen([sys.executable, '-m', 'ogm', *words], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 120
        while not until(tmp_path/'run') and p.poll() is None and time.monotonic() < end: time.sleep(.005)
        p.send_signal(sig); err = p.communicate(timeout=60)[1]
    finally: p.kill()
    return p.returncode, err.strip().splitlines()

@pytest.mark.parametrize('sig,step,says', [(signal.SIGTERM, 'teacher', r'training stopped .*epoch \d+'), (signal.SIGINT, 'synthesis', r'synthesis stopped at batch \d of 3, step \d+')])
def test_asked_to_stop(tmp_path, sig, step, says):
    "A checkpoint, one line, code 130; and the run goes on from there."
    (tmp_path/'run').mkdir(); words = DISTILL + ['10'] + ['--every', '1000', '--iters', '400', '--epochs', '40'] # no checkpoint but the one at the signal
    checkpoint = {'teacher': 'work/teacher.ckpt', 'synthesis': 'work/checkpoint.safetensors'}[step]
    env = dict(ENV, OGM_CHECKPOINT_SECONDS='1000'); began = lambda run: (run/'work'/'settings.json').exists() and step_of(run) == step
    def until(run):
        if not began(run): return False
        time.sleep(.5); return True
    code, lines = stop(tmp_path, sig, until, *words, env=env)
    assert code == 130 and len(lines) == 1 and re.fullmatch(rf'ogm: {says}.*; repeat the command to continue', lines[0]), lines
    assert (tmp_path/'run'/checkpoint).exists() and not debris(tmp_path/'run') and step_of(tmp_path/'run') == step

def test_debris_is_swept(tmp_path):
    "What a kill leaves of a write is not taken for a result, and goes at the next start."
    run = tmp_path/'run'; (run/'work').mkdir(parents=True); (run/'.images.0123abcd.tmp'/'x').mkdir(parents=True); (run/'work'/'.teacher.safetensors.89abcdef.tmp').write_bytes(b'half')
    assert len(debris(run)) == 2
    code, lines = stop(tmp_path, signal.SIGKILL, lambda run: not debris(run), *DISTILL, '10')
    assert code == -signal.SIGKILL and not [p for p in debris(run) if 'images' in p.name or '89abcdef' in p.name] and 'images' not in contents(run)
