"""Kills `ogm distill` and `ogm evaluate` with SIGKILL again and again, resumes them until they finish, and compares every byte with an uninterrupted run.

    python tests/kill.py --kills 20 --ranks 1,2 --out nbs/results/kill.json

A moment is chosen in each step of the road: at random in the time that the step takes, or as soon as a temporary file shows that something is being written.
`--fork` starts the processes from one that has imported everything, which spares the seconds that `import torch` takes; else they are `python -m ogm` and torchrun."""
import argparse, collections, hashlib, os, random, shutil, signal, socket, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTILL = 'distill --data digits --arch convnet2-w16 --epochs 12 --ipc 3 --iters 40 --every 5 --device cpu --out run --batch'.split()
EVALUATE = 'evaluate run --recipe ogm-muon --seeds 2 --epochs 25 --device cpu'.split()
STEPS = ['teacher', 'RDED', 'target', 'synthesis', 'artifact', 'evaluation']
ENV = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')} | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT), OGM_CHECKPOINT_SECONDS='0.05')

def words(run, ranks): # what is to be done next
    return DISTILL + [str(10//ranks)] if not (run/'ogm.json').exists() else EVALUATE

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def descendants(pid):
    "Children, and children of children; the process itself is stopped meanwhile, so that it starts no more."
    os.kill(pid, signal.SIGSTOP); out = []
    try: kids = [int(k) for t in os.listdir(f'/proc/{pid}/task') for k in Path(f'/proc/{pid}/task/{t}/children').read_text().split()]
    except OSError: return []
    for k in kids: out += [*descendants(k), k]
    return out

class Executed:
    "A run as users start it."
    def __init__(self, argv, ranks, cwd, log):
        launch = ['torch.distributed.run', '--standalone', '--nproc-per-node', str(ranks), '-m'] if ranks > 1 else []
        self.p = subprocess.Popen([sys.executable, '-m', *launch, 'ogm', *argv], cwd=cwd, env=ENV, stdout=log, stderr=log)
    def poll(self): return self.p.poll()
    def kill(self): # torchrun gives its workers sessions of their own, so a process group would not reach them
        for p in [*descendants(self.p.pid), self.p.pid]: os.kill(p, signal.SIGKILL)
        self.p.wait()

class Forked:
    "The same from a process that has imported everything already."
    before = staticmethod(lambda: None) # in the child
    def __init__(self, argv, ranks, cwd, log):
        port, self.pids, self.codes = free_port(), [], {}
        for r in range(ranks):
            if pid := os.fork(): self.pids.append(pid); continue
            code = 1
            try:
                self.before(); os.chdir(cwd); os.dup2(log.fileno(), 1); os.dup2(log.fileno(), 2); sys.argv = ['ogm', *argv]
                if ranks > 1: os.environ.update(RANK=str(r), WORLD_SIZE=str(ranks), LOCAL_RANK=str(r), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
                from ogm.cli import main
                code = main(argv)
            finally: sys.stdout.flush(); os._exit(code)
    def poll(self):
        for p in set(self.pids) - set(self.codes):
            if (got := os.waitpid(p, os.WNOHANG))[0]: self.codes[p] = os.waitstatus_to_exitcode(got[1])
        return None if len(self.codes) < len(self.pids) else max(self.codes.values(), key=abs)
    def kill(self):
        self.poll()
        for p in set(self.pids) - set(self.codes): os.kill(p, signal.SIGKILL)
        for p in set(self.pids) - set(self.codes): os.waitpid(p, 0)

def step_of(run):
    "Which step is at work, by the results that lie there."
    for name, file in (('teacher', 'work/teacher.safetensors'), ('RDED', 'work/start.safetensors'), ('target', 'work/target-kernel.safetensors'), ('synthesis', 'work/log.json'), ('artifact', 'ogm.json')):
        if not (run/file).exists(): return name
    return 'evaluation'

def writing(run):
    "Is there a temporary file?"
    for d in ('.', 'work', 'work/rded', 'work/target', 'scores'):
        try:
            if any(e.name.endswith('.tmp') for e in os.scandir(run/d)): return True
        except FileNotFoundError: pass
    return False

def contents(run):
    "path -> SHA-256 of all that a run leaves."
    return {p.relative_to(run).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(run.rglob('*')) if p.is_file()}

def begun(run): return (run/'work'/'settings.json').exists()

def uninterrupted(start, run, ranks, log):
    "Runs to the end; returns the seconds of each step, artifact and evaluation included."
    took, now, since = collections.Counter(), None, 0.
    for _ in range(2):
        p = start(words(run, ranks), ranks, run.parent, log)
        while p.poll() is None:
            s = step_of(run) if begun(run) else None
            if s != now: took[now] += time.monotonic() - since; now, since = s, time.monotonic()
            time.sleep(.002)
        if p.poll(): raise SystemExit(f'the uninterrupted run ended with code {p.poll()}: {log.name}')
    took[now] += time.monotonic() - since
    return {s: took[s] for s in STEPS}

def life(start, run, ranks, log, took, rand, steps):
    "One run, killed once in each of `steps`, then brought to its end; yields what was hit."
    steps = list(steps)
    while True:
        argv = words(run, ranks); p, step = start(argv, ranks, run.parent, log), None
        wait_write = rand.random() < .5; skip, due, was = rand.randrange(4), None, False
        while p.poll() is None:
            now = step_of(run) if begun(run) else None
            if steps and now in steps:
                if due is None: due = time.monotonic() + rand.random()*took[now]
                is_writing = wait_write and writing(run)
                if is_writing and not was: skip -= 1
                was = is_writing
                if (is_writing and skip < 0) or (time.monotonic() > due and not wait_write):
                    p.kill(); step = now; break
            time.sleep(.0003 if wait_write and due else .002)
        if step: steps = [s for s in steps if STEPS.index(s) > STEPS.index(step)]; yield dict(step=step, torn=writing(run))
        elif p.poll(): raise SystemExit(f'a resumed run ended with code {p.poll()}: {log.name}')
        elif argv is EVALUATE: return

def merged(rows):
    "Rows of the same number of ranks, started in the same way, added up."
    out = {}
    for r in rows:
        o = out.setdefault((r['ranks'], r['start']), dict(r, kills=0, torn=0, runs=0, identical=0, differ=[], seeds=[], steps={s: dict(killed=0, torn=0, seconds=v['seconds']) for s, v in r['steps'].items()}))
        for k in ('kills', 'torn', 'runs', 'identical', 'differ', 'seeds'): o[k] = o[k] + r[k]
        for s, v in r['steps'].items():
            for k in ('killed', 'torn'): o['steps'][s][k] += v[k]
    return [out[k] for k in sorted(out)]

def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument('--kills', type=int, default=20, help='at least so many for each number of ranks'); a.add_argument('--ranks', default='1'); a.add_argument('--seed', type=int, default=0)
    a.add_argument('--steps', default=','.join(STEPS)); a.add_argument('--fork', action='store_true'); a.add_argument('--out', help='JSON file'); a.add_argument('--append', action='store_true', help='add to what is in that file'); a = a.parse_args()
    os.environ.update(ENV); sys.path.insert(0, str(ROOT))
    import ogm.cli, ogm.synthesis, ogm.evaluation, ogm.rded, ogm.data, torch # noqa: F401, so that the children need not
    from ogm.core import provenance, read_json, write_json
    import datasets, sklearn.datasets, pyarrow.parquet # noqa: F401
    torch.set_num_threads(1); start, rand, rows = Forked if a.fork else Executed, random.Random(a.seed), []
    for ranks in map(int, a.ranks.split(',')):
        d = Path(tempfile.mkdtemp(prefix='ogm-kill-')); hits, same, lives, differ = [], 0, 0, []
        with open(d/'log.txt', 'a') as log:
            (d/'whole').mkdir(); took = uninterrupted(start, d/'whole'/'run', ranks, log); want = contents(d/'whole'/'run')
            while len(hits) < a.kills:
                lives += 1; run = d/f'life{lives}'/'run'; run.parent.mkdir()
                for hit in life(start, run, ranks, log, took, rand, a.steps.split(',')): hits.append(hit); print(ranks, hit, flush=True)
                got = contents(run); bad = [k for k in want.keys() | got.keys() if want.get(k) != got.get(k)]; differ += bad
                same += not bad; print(f'{ranks} rank(s), life {lives}: {"identical" if not bad else bad}', flush=True)
        steps = {s: dict(killed=sum(h['step'] == s for h in hits), torn=sum(h['step'] == s and h['torn'] for h in hits), seconds=round(took[s], 2)) for s in STEPS}
        rows.append(dict(ranks=ranks, start='forked' if a.fork else 'torchrun' if ranks > 1 else 'python -m ogm', seeds=[a.seed], kills=len(hits), torn=sum(h['torn'] for h in hits), runs=lives, identical=same, files=len(want), differ=sorted(set(differ)), steps=steps))
        if not differ: shutil.rmtree(d)
    old = read_json(a.out)['rows'] if a.append and a.out and Path(a.out).exists() else []
    if a.out: write_json(Path(a.out), provenance(rows=merged(old + rows), distill=' '.join(DISTILL[:-1]), evaluate=' '.join(EVALUATE)))
    sys.exit(any(r['differ'] for r in rows))

if __name__ == '__main__': main()
