"The runner for a GPU, on a CPU: jobs wait for what they need, the best is taken by held-out images, the rest is said."
import json, os, subprocess, sys

import pytest

from ogm.core import read_json
from ogm.synthesis import find_row
from ogm.training import get_recipe
from conftest import NBS, ROOT

PLANS = sorted((NBS/'results').glob('*/plan*.json'))

@pytest.mark.parametrize('file', PLANS, ids=lambda f: f'{f.parent.name}/{f.stem}')
def test_a_published_plan_can_be_followed(file):
    "Its rows and recipes exist, and somebody makes the images that are scored: this plan, or one beside it."
    made = {(j['row'], j['ipc']) for f in file.parent.glob('plan*.json') for j in read_json(f)['jobs'] if j['do'] == 'make'}
    for j in read_json(file)['jobs']:
        rows = j['row'] if isinstance(j['row'], list) else [j['row']]; assert {(r, j['ipc']) for r in rows} <= made, j
        for r in rows: find_row(r)
        for r in j.get('recipes') or [j['recipe']]: get_recipe(r)

def run(plan, out, *more):
    (out/'plan.json').write_text(json.dumps(plan))
    p = subprocess.run([sys.executable, ROOT/'tools'/'gpu.py', out/'plan.json', 'digits', out/'run', *more], env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=250)
    return p.returncode, p.stdout + p.stderr, read_json(out/'run'/'students.json')

def test_a_plan_from_end_to_end(tmp_path):
    few, many, recipe = 'random', 'random:factor=2,unfold=True', 'ogm-basic:steps=30,scale=0.5'
    jobs = [dict(do='judge', ipc=2, row=[few, many], recipe=recipe, seeds=[0]), dict(do='judge', ipc=2, row=[few, many], recipe=recipe, seeds=[1]),
            *[dict(do='hold', ipc=2, row=r, recipe=recipe, seeds=[0], expected=.5) for r in (few, many)], *[dict(do='make', ipc=2, row=r, recipes=[recipe]) for r in (few, many)],
            dict(do='judge', ipc=2, row='herding', recipe=recipe, seeds=[0])]
    plan = dict(arch='convnet2-w8-in', teacher_epochs=1, holdout=.2, device='cpu', amp=False, jobs=jobs)
    code, said, cut = run(plan, tmp_path, '--workers', '2', '--seconds', '0'); assert code == 1 and '5 jobs not begun, 2 not finished' in said and not any(s['seeds'] for s in cut['students']) and 'complete' not in cut['made'].values()      # no time: nothing is lost, and the same command goes on
    code, said, all_of_it = run(plan, tmp_path, '--workers', '2'); got = [s for s in all_of_it['students'] if s['seeds']]
    assert code == 1 and all_of_it['made'] == {few: 'complete', many: 'complete'} and '1 jobs wait for images or scores that nobody makes' in said
    held, (judged,) = ({s['row']: s for s in got if s['do'] == 'hold'}, [s for s in got if s['do'] == 'judge'])
    assert held.keys() == {few, many} and all(s['expected'] == .5 and len(s['last']) == 1 for s in held.values())
    assert judged['row'] == max(held, key=lambda r: held[r]['last'][0]) and judged['seeds'] == [0, 1] and judged['wanted'] == 2
    assert judged['n_val'] == 359 and held[few]['n_val'] < 300 and held[few]['n_train'] == 20 and held[many]['n_train'] == 80
    file = next((tmp_path/'run'/'work').glob('hold-random-factor2*.json' if judged['row'] == many else 'hold-random-ipc*.json')); known = read_json(file)
    known['runs'][0]['last'] = .99; file.write_text(json.dumps(known)); code, _, again = run(plan | dict(jobs=jobs[:-1]), tmp_path)   # what is known is not computed again
    assert code == 0 and [s['last'] for s in again['students'] if s['do'] == 'hold' and s['row'] == judged['row']] == [[.99]] and judged in again['students']
