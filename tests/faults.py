"""What happens to a run when its surroundings fail; each fault is tried with `ogm distill`, then the cause is removed and the run is brought to its end.

    python tests/faults.py --tries 5 --out nbs/results/faults.json

After each fault three things are looked at: the process ended by itself with a code other than 0 and one line that starts with 'ogm:'; nothing half-written was left;
and the run, continued, ends in the same bytes as one that was never disturbed. Needs root for the small disk and the read-only disk, else these are left out."""
import argparse, os, random, resource, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

from kill import ENV, ROOT, STEPS, Forked, begun, contents, step_of

WORDS = 'distill --data ../data --arch convnet2-w16 --epochs 6 --ipc 2 --iters 30 --every 5 --batch 10 --device cpu --out run'.split()

class Child(Forked):
    "One process (or several ranks) of the road; `before` runs in the child."
    def __init__(self, d, words=WORDS, ranks=1, before=lambda: None):
        self.path = d/'said.txt'; self.from_ = self.path.stat().st_size if self.path.exists() else 0; self.before, self.ranks = before, ranks
        self.log = open(self.path, 'a'); super().__init__(words, ranks, d, self.log)
    def wait(self, limit=120):
        end = time.monotonic() + limit
        while self.poll() is None:
            if time.monotonic() > end: self.kill(); return None
            time.sleep(.003)
        return self.poll()
    def lines(self):
        with open(self.path) as f: f.seek(self.from_); return [l for l in f.read().splitlines() if l.startswith('ogm: ') and 'warning' not in l or 'Traceback' in l or 'Error' in l]

def images(folder, n=40):
    "A small source on disk: three classes, read on demand."
    import torch; from torchvision.io import write_png; from ogm.core import rng
    for c in 'abc':
        (folder/c).mkdir(parents=True)
        for i in range(n): write_png(torch.randint(0, 255, (3, 16, 16), generator=rng(i, c), dtype=torch.uint8)//(1 + 'abc'.index(c)), str(folder/c/f'{i}.png'))

def until(run, step, rand):
    "Lets the child come into `step`, and a little further."
    def reached(child):
        while child.poll() is None and not (begun(run) and STEPS.index(step_of(run)) >= STEPS.index(step)): time.sleep(.002)
        time.sleep(rand.random()*.15); return child.poll() is None
    return reached

def mount(path, *options): return subprocess.run(['mount', *options, str(path)], capture_output=True).returncode == 0

# ---- the faults: each returns (child, cure) or None when it cannot be tried here

def file_limit(d, rand):
    n = rand.choice([300, 3000, 12000, 25000]) + rand.randrange(3000)
    return Child(d, before=lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY)))), lambda: None

def full_disk(d, rand):
    (d/'run').mkdir()
    if not mount(d/'run', '-t', 'tmpfs', '-o', f'size={rand.choice([12, 40, 60, 80])}k', 'tmpfs'): return None
    return Child(d), lambda: mount(d/'run', '-o', 'remount,size=64m')

def read_only(d, rand):
    (d/'run').mkdir()
    if not mount(d/'run', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs'): return None
    child = Child(d); until(d/'run', rand.choice(['teacher', 'RDED', 'synthesis']), rand)(child); child.kill()
    return (Child(d), lambda: mount(d/'run', '-o', 'remount,rw')) if mount(d/'run', '-o', 'remount,ro') else None

def file_in_the_way(d, rand):
    (d/'run').write_text('a letter'); return Child(d), lambda: (d/'run').unlink()

def input_removed(d, rand):
    child = Child(d); until(d/'run', rand.choice(['teacher', 'RDED']), rand)(child)
    (d.parent/'data').rename(d.parent/'gone'); return child, lambda: (d.parent/'gone').rename(d.parent/'data')

def stopped(d, rand):
    child = Child(d)
    if until(d/'run', rand.choice(['teacher', 'RDED', 'target', 'synthesis']), rand)(child): os.kill(child.pids[0], rand.choice([signal.SIGTERM, signal.SIGINT]))
    return child, lambda: None

def held(d, rand):
    first = Child(d); until(d/'run', 'teacher', rand)(first); second = Child(d); second.wait(); first.wait()
    assert first.poll() == 0, 'the first process was disturbed'
    return second, lambda: None

def one_rank_dies(d, rand):
    child = Child(d, ranks=2); until(d/'run', rand.choice(['teacher', 'RDED', 'synthesis']), rand)(child)
    if child.poll() is None: os.kill(child.pids[1], signal.SIGKILL)
    return child, lambda: None

def _poison(d, file, change):
    from ogm.core import load_tensors, save_tensors
    child = Child(d)
    while child.poll() is None and not (d/'run'/'work'/file).exists(): time.sleep(.001)
    child.kill(); t, meta = load_tensors(d/'run'/'work'/file); good = (d/'run'/'work'/file).read_bytes()
    change(t); save_tensors(d/'run'/'work'/file, t, **meta); return Child(d), lambda: (d/'run'/'work'/file).write_bytes(good)

def nan_pixels(d, rand): return _poison(d, 'checkpoint.safetensors', lambda t: t['x'][0, 0, 0].fill_(float('nan')))
def nan_target(d, rand): return _poison(d, 'target-kernel.safetensors', lambda t: next(iter(t.values()))[0].fill_(float('inf')))

def torn_checkpoint(d, rand):
    child = Child(d); file = d/'run'/'work'/'checkpoint.safetensors'
    while child.poll() is None and not file.exists(): time.sleep(.001)
    child.kill(); good = file.read_bytes(); file.write_bytes(good[:rand.randrange(len(good))]); return Child(d), lambda: file.write_bytes(good)

FAULTS = {'a file may not grow further': file_limit, 'the disk is full': full_disk, 'the disk becomes read-only': read_only, 'a file in the way of the run directory': file_in_the_way,
          'the images are removed': input_removed, 'SIGTERM or SIGINT': stopped, 'two processes on one run directory': held, 'one of two processes is killed': one_rank_dies,
          'a pixel is not a number': nan_pixels, 'the target is not a number': nan_target, 'a checkpoint is cut short': torn_checkpoint}

def attempt(fault, top, k, rand, whole):
    "One try: dict(code, said, quiet, intact)."
    from ogm.core import debris
    d = top/f'{fault.__name__}{k}'; d.mkdir(); made = fault(d, rand)
    if made is None: return None
    child, cure = made; code, said = child.wait(), child.lines(); left = len(debris(d/'run')) if (d/'run').is_dir() else 0
    cure()
    if not (d/'run'/'ogm.json').exists(): assert Child(d, ranks=child.ranks).wait() == 0, f'{fault.__name__}: the run could not be continued, see {d}'
    got = contents(d/'run'); subprocess.run(['umount', str(d/'run')], capture_output=True)
    intact = got == whole[child.ranks]
    one = len(said) == 1 and said[0].startswith('ogm: ')
    return dict(code=code, said=said, one_line=one, debris=left, intact=intact)

def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0]); a.add_argument('--tries', type=int, default=5); a.add_argument('--seed', type=int, default=0)
    a.add_argument('--only', default='', help='names of faults, e.g. stopped,held'); a.add_argument('--out', help='JSON file'); a = a.parse_args()
    os.environ.update(ENV, OGM_MEMORY='0'); sys.path.insert(0, str(ROOT))
    import ogm.cli, ogm.synthesis, ogm.evaluation, ogm.rded, ogm.data, torch, datasets, pyarrow.parquet # noqa: F401, so that the children need not
    from ogm.core import provenance, write_json
    torch.set_num_threads(1); rows, top = [], Path(tempfile.mkdtemp(prefix='ogm-faults-')); images(top/'data'); whole = {}
    for n in (1, 2):
        (top/f'whole{n}').mkdir(); assert Child(top/f'whole{n}', ranks=n).wait() == 0, f'the undisturbed run failed, see {top}'
        whole[n] = contents(top/f'whole{n}'/'run')
    for title, fault in FAULTS.items():
        if a.only and fault.__name__ not in a.only.split(','): continue
        got = [attempt(fault, top, k, random.Random(f'{a.seed} {title} {k}'), whole) for k in range(a.tries)]
        if None in got: print(f'{title}: cannot be tried here'); continue
        hit = [g for g in got if g['code'] != 0]        # else the run was over before the fault came
        rows.append(dict(fault=title, name=fault.__name__, tries=len(got), hit=len(hit), codes=sorted({str(g['code']) for g in hit}), one_line=sum(g['one_line'] for g in hit), debris=sum(g['debris'] for g in hit),
                         intact=sum(g['intact'] for g in got), said=hit[0]['said'][0].replace(str(top), '…') if hit and hit[0]['said'] else ''))
        print(rows[-1], flush=True)
        if any(not g['intact'] or (g['code'] and not g['one_line']) for g in got): print(*got, sep='\n', flush=True)
    if a.out: write_json(Path(a.out), provenance(rows=rows, seed=a.seed))
    shutil.rmtree(top)

if __name__ == '__main__': main()
