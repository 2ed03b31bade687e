"""Rows of a table side by side on one GPU, each in a process of its own, which a small network leaves idle otherwise.

python tools/gpu.py PLAN.json data/cifar10 runs/gpu

A plan says what all jobs share, and lists them: `make` makes the images of a row and scores it on held-out training images, `hold` scores
images that are there on those, `judge` on the validation images of the data, which nothing was chosen by. A job waits for its images; where
its row is a list, for the held-out scores of all of them, and takes the best."""
import contextlib, json, multiprocessing, sys, time, traceback
from dataclasses import asdict
from pathlib import Path

from ogm.core import file_name, pick_device, provenance, read_json, write_json
from ogm.cli import get_teacher
from ogm.data import open_source
from ogm.distilled import DistilledSet, join, unfold
from ogm.evaluation import evaluate
from ogm.experiments import hold_out, run_row
from ogm.models import load_teacher

def place(out, job, arch): return out/'work'/f"{file_name(job['row'])}-ipc{job['ipc']}-{arch}"

def images(out, job, arch):
    "What a row's students see, from where `make` put it."
    if job['row'] == 'whole': return None
    parts = [DistilledSet.load(d) for d in (place(out, job, arch)/'set', place(out, job, arch)/'missed') if (d/'ogm.json').exists()]
    parts = [unfold(p) if p.chroma > 1 or job.get('unfold', 'plus' in job['row']) else p for p in parts]
    return join(*parts) if len(parts) > 1 else parts[0]

def scored(out, job, arch): return out/job['do']/(file_name('-'.join([job['row'], f"ipc{job['ipc']}", job.get('arch', arch), job['recipe'], *map(str, job['seeds'])])) + '.json')

def held_scores(out, row): # all of a row, over its recipes and seeds
    found = [read_json(f) for f in sorted((out/'hold').glob('*.json'))]; return [v for r in found if r['row'] == row for v in r['score']['last']]

def work(job, plan, full, held, out):
    "One job, in a process of its own."
    began, dev, kw = time.perf_counter(), pick_device(plan.get('device')), dict(eval_every=10**9, amp=plan.get('amp', True))
    t = load_teacher(out/'work'/'teacher.safetensors', held, device=dev)
    if isinstance(job['row'], list): job = job | dict(row=max(job['row'], key=lambda r: sum(v := held_scores(out, r))/len(v)))
    if job['do'] == 'make':
        r = run_row(job['row'], held, t, job['ipc'], out, seeds=job.get('seeds', 1), labels=('hard',), recipes=job['recipes'], seed=plan.get('seed', 0), device=dev, **kw)
        done = {s['recipe']: s['last'] for s in r['scores']}
    else:
        shown = images(out, job, t.arch); arch = job.get('arch', t.arch); own = dict(mean=t.mean, std=t.std, size=t.size) if shown is None else {}
        val = full.val if job['do'] == 'judge' else held.val; file = scored(out, job, arch)
        s = evaluate(held.train if shown is None else shown, val, job['recipe'], 'hard', seeds=job['seeds'], arch=arch, teacher=t, name=job['row'], device=dev, out=out/'work'/f"{job['do']}-{file.name}", **own, **kw)
        write_json(file, provenance(row=job['row'], ipc=job['ipc'], teacher=dict(arch=t.arch, accuracy=t.accuracy, sha256=t.sha256()), n_train=len(held.train), n_val=len(val), do=job['do'], score=asdict(s) | dict(recipe=job['recipe'])))
        done = s.last
    print(json.dumps(dict(do=job['do'], ipc=job['ipc'], row=job['row'], arch=job.get('arch', t.arch), recipe=job.get('recipe'), seconds=round(time.perf_counter() - began), done=done)), flush=True)

def quiet(log, *args):
    with open(log, 'w') as f, contextlib.redirect_stderr(f):
        try: work(*args)
        except BaseException: traceback.print_exc(file=f); print(f'failed, see {log}', flush=True); raise SystemExit(1) from None

def ready(job, out, arch): # are its images there?
    if isinstance(job['row'], list): return all(held_scores(out, r) for r in job['row'])
    d = place(out, job, arch); return job['do'] == 'make' or job['row'] == 'whole' or (d/'set'/'ogm.json').exists() and ('missed' not in job['row'] or (d/'missed'/'ogm.json').exists())

def main(plan, data, out, workers=12, seconds=10**9):
    plan, out, began, fork = read_json(Path(plan)), Path(out), time.monotonic(), multiprocessing.get_context('fork')
    full = open_source(data); held = hold_out(full, plan['holdout']); (out/'logs').mkdir(parents=True, exist_ok=True)
    p = fork.Process(target=get_teacher, args=(held, '', plan['arch'], plan['teacher_epochs'], plan.get('seed', 0), plan.get('device', 'cuda'), out/'work')); p.start(); p.join()
    todo, running = list(enumerate(plan['jobs'])), []
    while todo or running:
        for k, job in list(todo):
            if len(running) >= workers: break
            if not ready(job, out, plan['arch']): continue
            todo.remove((k, job)); log = out/'logs'/f"{k:02}-{job['do']}-{file_name(str(job['row']))}.log"
            running.append(fork.Process(target=quiet, args=(log, job, plan, full, held, out))); running[-1].start()
        time.sleep(.2); running = [p for p in running if p.is_alive()]
        if todo and not running and not any(ready(job, out, plan['arch']) for _, job in todo): print(f'{len(todo)} jobs wait for images that nobody makes'); break
        if time.monotonic() - began > seconds:
            print(f'{len(todo)} not begun, {len(running)} not finished'); [p.terminate() for p in running]; [p.join(5) for p in running]; [p.kill() for p in running]; break

if __name__ == '__main__':
    from fastcore.script import anno_parser
    main.__annotations__.update(plan=str, data=str, out=str, workers=int, seconds=int)
    args = vars(anno_parser(main, 'tools/gpu.py').parse_args()); main(**{k: v for k, v in args.items() if k not in ('pdb', 'xtra')}); sys.exit()
