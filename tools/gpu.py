"""Rows and students side by side on one GPU, each in a process of its own: a small network leaves most of it idle.

nvidia-cuda-mps-control -d                                   # lets processes compute at the same time, where there is one
python tools/gpu.py PLAN.json data/cifar10 runs/gpu

A plan says what all jobs share, and lists them: `make` makes the images of a row and scores it on held-out training images, `hold` scores
images that are there on those, `judge` on the validation images of the data, by which nothing was chosen. A job waits for its images; where
its row is a list, for the held-out scores of all of them, and takes the best. In the end OUT/students.json has the scores of `hold` and `judge`,
also of jobs for which the time did not suffice, as far as they came, and how far each synthesis came; those of `make` are in a file for each
row, as ogm.experiments writes it. Images and unfinished work stay in OUT, and the same command continues."""
import contextlib, json, multiprocessing, sys, time, traceback
from pathlib import Path

from ogm.cli import get_teacher
from ogm.core import file_name, load_tensors, pick_device, provenance, read_json, write_json
from ogm.data import open_source
from ogm.distilled import DistilledSet, finished, join, unfold
from ogm.evaluation import evaluate
from ogm.experiments import hold_out, run_row
from ogm.models import load_teacher
from ogm.synthesis import find_row

def place(out, job, arch): return out/'work'/f"{file_name(job['row'])}-ipc{job['ipc']}-{arch}"

def scored(out, job, arch): # where `evaluate` notes one seed after another
    return out/'work'/(file_name('-'.join([job['do'], job['row'], f"ipc{job['ipc']}", job.get('arch', arch), job['recipe'], *map(str, job['seeds'])])) + '.json')

def parts(out, job, arch): # the sets that a row's students see, from where `make` put them
    row = find_row(job['row']); return [place(out, job, arch)/s for s in ('set', 'missed')[:1 + bool(row.missed)] if row.init != 'whole']

def images(out, job, arch):
    "What a row's students see; None: all real images."
    row, found = find_row(job['row']), [DistilledSet.load(d) for d in parts(out, job, arch)]
    found = [unfold(d) if row.unfold else d for d in found]
    return join(*found) if len(found) > 1 else found[0] if found else None

def runs_of(out, job, arch): return read_json(f)['runs'] if (f := scored(out, job, arch)).exists() else []

def held(plan, out, row): # accuracies of a row on held-out images, one a seed; none before all are there
    jobs = [j for j in plan['jobs'] if j['do'] == 'hold' and j['row'] == row]; got = [runs_of(out, j, plan['arch']) for j in jobs]
    return [r['last'] for runs in got for r in runs] if all(len(r) == len(j['seeds']) for r, j in zip(got, jobs)) else []

def ready(plan, job, out):
    if isinstance(job['row'], list): return all(held(plan, out, r) for r in job['row'])
    return job['do'] == 'make' or all(finished(d) for d in parts(out, job, plan['arch']))

def settled(plan, job, out): # with one row in the place of a list, once that is known
    if not isinstance(job['row'], list): return job
    return job | dict(row=max(job['row'], key=lambda r: sum(v := held(plan, out, r))/len(v))) if ready(plan, job, out) else None

def work(job, plan, full, part, out):
    "One job, in a process of its own."
    began, dev, kw = time.perf_counter(), pick_device(plan.get('device')), dict(eval_every=10**9, amp=plan.get('amp', True), compile=plan.get('compile', False))
    t = load_teacher(out/'work'/'teacher.safetensors', part, device=dev); job = settled(plan, job, out)
    if job['do'] == 'make':
        r = run_row(job['row'], part, t, job['ipc'], out, seeds=job.get('seeds', 1), labels=('hard',), recipes=job['recipes'], seed=plan.get('seed', 0), device=dev, **kw)
        done = {s['recipe']: s['last'] for s in r['scores']}
    else:
        shown = images(out, job, t.arch); own = dict(mean=t.mean, std=t.std, size=t.size) if shown is None else {}
        done = evaluate(part.train if shown is None else shown, (full if job['do'] == 'judge' else part).val, job['recipe'], 'hard', seeds=job['seeds'], arch=job.get('arch', t.arch), teacher=t, name=job['row'], device=dev, out=scored(out, job, t.arch), **own, **kw).last
    print(json.dumps(job | dict(seconds=round(time.perf_counter() - began), done=done)), flush=True)

def quiet(log, *args):
    with open(log, 'w') as f, contextlib.redirect_stderr(f):
        try: work(*args)
        except BaseException: traceback.print_exc(file=f); print(f'not finished, see {log}', flush=True); raise SystemExit(1) from None

def collect(plan, out):
    "Every score, seeds of like jobs together."
    found = {}
    for job in filter(None, (settled(plan, j, out) for j in plan['jobs'])):
        if job['do'] == 'make': continue
        key = dict(do=job['do'], ipc=job['ipc'], row=job['row'], arch=job.get('arch', plan['arch']), recipe=job['recipe'], expected=job.get('expected'))
        s = found.setdefault(tuple(key.values()), key | dict(seeds=[], last=[], wanted=0)); s['wanted'] += len(job['seeds'])
        if not (f := scored(out, job, plan['arch'])).exists(): continue
        d = read_json(f); s |= dict(n_train=d['n_train'], n_val=d['n_val'], hardware=d['hardware'], torch=d['versions']['torch'])
        s['seeds'] += [r['seed'] for r in d['runs']]; s['last'] += [r['last'] for r in d['runs']]
    return list(found.values())

def made(plan, out):
    "How far each synthesis came: 'complete', or [batch, step] of its last checkpoint."
    def state(job):
        file = place(out, job, plan['arch'])/'checkpoint.safetensors'; meta = load_tensors(file)[1] if file.exists() else {}
        return 'complete' if all(finished(d) for d in parts(out, job, plan['arch'])) else [meta.get('b', 1), meta.get('t', 0)]
    return {j['row']: state(j) for j in plan['jobs'] if j['do'] == 'make'}

def main(plan:str, data:str, out:str, workers:int=12, seconds:int=10**9):
    if workers < 1: sys.exit('workers must be at least 1')
    plan, out, began, fork, failed = read_json(Path(plan)), Path(out), time.monotonic(), multiprocessing.get_context('fork'), 0
    full = open_source(data); part = hold_out(full, plan['holdout']); (out/'logs').mkdir(parents=True, exist_ok=True)
    p = fork.Process(target=get_teacher, args=(part, '', plan['arch'], plan['teacher_epochs'], plan.get('seed', 0), plan.get('device', 'cuda'), out/'work')); p.start(); p.join()
    if p.exitcode: sys.exit('there is no teacher')
    todo, running = list(enumerate(plan['jobs'])), []
    while todo or running:
        for k, job in list(todo):
            if len(running) >= workers: break
            if not ready(plan, job, out): continue
            todo.remove((k, job)); running.append(fork.Process(target=quiet, args=(out/'logs'/f"{k:02}-{job['do']}.log", job, plan, full, part, out))); running[-1].start()
        time.sleep(.2); failed += sum(bool(p.exitcode) for p in running); running = [p for p in running if p.is_alive()]
        if todo and not running and not any(ready(plan, job, out) for _, job in todo): print(f'{len(todo)} jobs wait for images or scores that nobody makes'); failed += len(todo); break
        if time.monotonic() - began > seconds and (todo or running):
            print(f'{len(todo)} jobs not begun, {len(running)} not finished'); [p.terminate() for p in running]; [p.join(5) for p in running]; [p.kill() for p in running]; failed += len(todo) + len(running); break
    write_json(out/'students.json', provenance(made=made(plan, out), students=collect(plan, out))); sys.exit(bool(failed))

if __name__ == '__main__':
    from fastcore.script import anno_parser
    args = vars(anno_parser(main, 'tools/gpu.py').parse_args()); main(**{k: v for k, v in args.items() if k not in ('pdb', 'xtra')})
