"The runner for a GPU, on a CPU: jobs wait for what they need, the best is taken by held-out images, the rest is said."
import json, os, subprocess, sys

from ogm.core import read_json
from conftest import ROOT

def run(plan, out, *more):
    (out/'plan.json').write_text(json.dumps(plan))
    p = subprocess.run([sys.executable, ROOT/'tools'/'gpu.py', out/'plan.json', 'digits', out/'run', *more], env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=250)
    assert p.returncode == 0, p.stderr
    return p.stdout, read_json(out/'run'/'students.json')['students']

def test_a_plan_from_end_to_end(tmp_path):
    few, many, recipe = 'random', 'random:factor=2,unfold=True', 'ogm-basic:steps=30,scale=0.5'
    jobs = [dict(do='judge', ipc=2, row=[few, many], recipe=recipe, seeds=[0]), dict(do='judge', ipc=2, row=[few, many], recipe=recipe, seeds=[1]),
            *[dict(do='hold', ipc=2, row=r, recipe=recipe, seeds=[0], expected=.5) for r in (few, many)], *[dict(do='make', ipc=2, row=r, recipes=[recipe]) for r in (few, many)],
            dict(do='judge', ipc=2, row='herding', recipe=recipe, seeds=[0])]
    plan = dict(arch='convnet2-w8-in', teacher_epochs=1, holdout=.2, device='cpu', amp=False, jobs=jobs)
    said, got = run(plan, tmp_path, '--workers', '2')
    assert '1 jobs wait for images or scores that nobody makes' in said
    held, (judged,) = ({s['row']: s for s in got if s['do'] == 'hold'}, [s for s in got if s['do'] == 'judge'])
    assert held.keys() == {few, many} and all(s['expected'] == .5 and len(s['last']) == 1 for s in held.values())
    assert judged['row'] == max(held, key=lambda r: held[r]['last'][0]) and judged['seeds'] == [0, 1] and judged['wanted'] == 2
    assert judged['n_val'] == 359 and held[few]['n_val'] < 300 and held[few]['n_train'] == 20 and held[many]['n_train'] == 80
    said, again = run(plan, tmp_path, '--seconds', '0')     # nothing is computed twice, and what cannot be is said
    assert 'not begun' in said and again == got
