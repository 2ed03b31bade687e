"""Time and memory against the number of images and of classes, on parquet shards that are decoded on demand: `python tools/scale.py --out nbs/results/scale.json`.

Draws images, writes them as shards, and lets a process of its own do each measurement: the real target, RDED and one epoch of training over 25,000 to 200,000 images,
RDED over 1 to 1000 classes. `--append` adds to a file of earlier measurements. Seconds are those of the processors, of the process and its workers, so that other work on the machine does not count. Memory is what the process and its decoding workers hold beyond files mapped into memory, shared pages counted once (Pss_Anon), sampled five times a second."""
import argparse, json, os, resource, shutil, subprocess, sys, tempfile, threading, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIDE, SHARD, CLASSES = 24, 10_000, 1000
COUNTS, CLASS_COUNTS = (25_000, 50_000, 100_000, 200_000), (1, 10, 100, 1000)

def write_shards(folder, n):
    "`n` images in shards of 10,000 rows, classes in turn, and a small validation shard."
    import io, numpy as np, pyarrow as pa, pyarrow.parquet as pq
    from PIL import Image
    rand = np.random.default_rng(0); base = rand.integers(0, 255, (CLASSES, 3, 3, 3), dtype=np.uint8)
    def shard(name, rows):
        out = []
        for i in rows:
            x = np.kron(base[i % CLASSES], np.ones((SIDE//3, SIDE//3, 1), np.uint8)).astype(np.int16) + rand.integers(-20, 20, (SIDE, SIDE, 1))
            b = io.BytesIO(); Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(b, 'jpeg', quality=90); out.append(b.getvalue())
        pq.write_table(pa.table(dict(image=pa.array(out, pa.binary()), label=pa.array([i % CLASSES for i in rows]))), folder/f'{name}.parquet', row_group_size=1000)
    folder.mkdir(parents=True)
    for k in range(-(-n//SHARD)): shard(f'train-{k:05d}', range(k*SHARD, min(n, (k + 1)*SHARD)))
    shard('val-00000', range(2*CLASSES))

class Memory(threading.Thread):
    "Peak of the anonymous memory of this process and its children, bytes."
    def __init__(self): super().__init__(daemon=True); self.peak, self.on = 0, True
    def now(self):
        me, total = os.getpid(), 0
        kids = Path(f'/proc/{me}/task/{me}/children').read_text().split()
        for p in [me, *kids]:
            try: total += sum(int(l.split()[1])*1024 for l in open(f'/proc/{p}/smaps_rollup') if l.startswith('Pss_Anon'))
            except OSError: pass
        return total
    def run(self):
        while self.on: self.peak = max(self.peak, self.now()); time.sleep(.2)

def measure(what, folder, n, classes):
    "One measurement in this process: dict of seconds and bytes."
    import torch; from ogm.data import Source, Split, open_source; from ogm.gradients import real_target
    from ogm.models import Teacher; from ogm.rded import rded; from ogm.training import build_seeded, train
    import datasets # noqa: F401, what is imported anyway is no part of the measurement
    torch.set_num_threads(1); mem = Memory(); before = mem.now(); mem.start(); t0 = time.perf_counter()
    src = open_source(folder); assert src.train.lazy and len(src.train) == n; opened, t0, cpu = time.perf_counter() - t0, time.perf_counter(), busy()
    mean, std = (.5,)*3, (.25,)*3; net = build_seeded('convnet2-w8', CLASSES, SIDE); teacher = Teacher(net, 'convnet2-w8', SIDE, mean, std, src.classes)
    if what == 'target': real_target(src.train, teacher)
    if what == 'train': train(build_seeded('convnet2-w8', CLASSES, SIDE), src.train, 'sgd', mean=mean, std=std, size=SIDE, epochs=1, device='cpu')
    if what == 'rded':
        rows = (src.train.labels < classes).nonzero()[:, 0]; names = src.classes[:classes]
        part = Source('part', Split(src.train.labels[rows], names, store=src.train.store, rows=rows), src.val)
        teacher = Teacher(build_seeded('convnet2-w8', classes, SIDE), 'convnet2-w8', SIDE, mean, std, names)
        rded(part, teacher, 1, n_images=5, device='cpu')
    mem.on = False; cpu = busy() - cpu
    return dict(what=what, images=n, classes=classes, open_seconds=opened, wall_seconds=time.perf_counter() - t0, seconds=cpu, start_bytes=before, peak_bytes=max(mem.peak, mem.now()))

def busy(): return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) # seconds of the processors

def size(folder, pattern): return sum(p.stat().st_size for p in folder.rglob(pattern) if p.is_file())

def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0]); a.add_argument('--out'); a.add_argument('--counts', default=','.join(map(str, COUNTS))); a.add_argument('--append', action='store_true'); a.add_argument('--one', nargs=4)
    a = a.parse_args(); sys.path.insert(0, str(ROOT))
    if a.one: print(json.dumps(measure(a.one[0], a.one[1], int(a.one[2]), int(a.one[3])))); return
    d = Path(tempfile.mkdtemp(prefix='ogm-scale-')); env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', OGM_MEMORY='8e6', HF_HOME=str(d/'cache'), TMPDIR=str(d))
    counts, old = [int(c) for c in a.counts.split(',')], json.loads(Path(a.out).read_text()) if a.append and Path(a.out).exists() else {}
    rows, disk = [r for r in old.get('rows', []) if r['images'] not in counts], [r for r in old.get('disk', []) if r['images'] not in counts]
    def run(*words):
        done = subprocess.run([sys.executable, __file__, '--one', *map(str, words)], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows.append(json.loads(done.stdout.splitlines()[-1])); print(rows[-1], flush=True)
    def save():
        from ogm.core import provenance, write_json
        if a.out: write_json(Path(a.out), provenance(rows=sorted(rows, key=lambda r: (r['what'], r['images'], r['classes'])), disk=sorted(disk, key=lambda r: r['images']), side=SIDE, shard=SHARD, memory_setting=env['OGM_MEMORY'], n_images=5))
    for n in sorted(counts, reverse=True):
        write_shards(d/str(n), n); todo = [('target', d/str(n), n, CLASSES), ('train', d/str(n), n, CLASSES)]
        todo += [('rded', d/str(n), n, c) for c in (CLASS_COUNTS if n == max(COUNTS) else (CLASSES,))]
        for t in todo: run(*t); save()
        disk.append(dict(images=n, parquet_bytes=size(d/str(n), '*.parquet'), other_bytes=size(d, '*') - size(d/str(n), '*.parquet'))); save()
        shutil.rmtree(d/str(n)); shutil.rmtree(d/'cache', ignore_errors=True)
    shutil.rmtree(d)

if __name__ == '__main__': main()
