"""How long a synthesis takes beside the paper's thousand steps: `python tools/clock.py --data data/cifar10 --out nbs/results/beyond/clock.json`.

Rows of the tables take turns in one process with one thread, a few steps at a time, so that whatever disturbs the machine disturbs all of them. Seconds are those of a step times the steps of the row. Weights do not matter for time, so the teacher is not trained."""
import argparse, statistics

import torch

from ogm.bench import rounds
from ogm.core import keep_memory, provenance, write_json
from ogm.data import open_source
from ogm.gradients import real_target
from ogm.models import Teacher
from ogm.rded import make_start
from ogm.synthesis import Settings, Synthesis, find_row
from ogm.training import Novices, build_seeded, channel_stats

PAPER = 'ogm:iters=1000'

def way(src, t, target, name, ipc, steps): # (function that makes some steps, its settings)
    r = find_row(name); s = Settings(**r.synthesis); run = Synthesis(t, make_start(src, t, 'random', ipc, r.factor, chroma=r.chroma), target, s, 'cpu', Novices(src, t.arch, s.novices, s.age, device='cpu') if s.eta else None)
    return lambda: [run.step() for _ in range(steps)], s

def clock(src, t, target, names, ipc, n, steps): # name -> seconds of a whole synthesis, and its ratio to the paper's
    ways = {name: way(src, t, target, name, ipc, steps) for name in names}; v = rounds({k: f for k, (f, _) in ways.items()}, n)
    whole = {k: [sec/steps*s.iters*-(-ipc*src.n_classes//s.batch) for sec in v[k]] for k, (_, s) in ways.items()}; ratio = {k: [a/b for a, b in zip(w, whole[PAPER])] for k, w in whole.items()}
    return {k: dict(seconds=statistics.mean(w), ratio=statistics.mean(ratio[k]), std=statistics.stdev(ratio[k])) for k, w in whole.items()}

def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0]); add = a.add_argument; add('--data', required=True); add('--arch', default='convnet3-w32-in'); add('--size', type=int, default=32)
    add('--ipc', default='10'); add('--rows', default='ogm-plus'); add('--rounds', type=int, default=6); add('--steps', type=int, default=16); add('--out'); a = a.parse_args()
    torch.set_num_threads(1); keep_memory(); src = open_source(a.data, size=a.size); mean, std = channel_stats(src.train, a.size); t = Teacher(build_seeded(a.arch, src.n_classes, a.size), a.arch, a.size, mean, std, src.classes)
    target, names = real_target(src.train.subset(torch.arange(min(2000, len(src.train)))), t), [PAPER, *(r for r in a.rows.split(';') if r != PAPER)]
    res = provenance(arch=a.arch, rounds=a.rounds, steps=a.steps, ipc={k: clock(src, t, target, names, int(k), a.rounds, a.steps) for k in a.ipc.split(',')})
    for k, rows in res['ipc'].items():
        for name, r in rows.items(): print(f"{k} images a class, {name}: {r['seconds']:.0f} s, {r['ratio']:.2f} ± {r['std']:.2f} of the paper's")
    if a.out: write_json(a.out, res)

if __name__ == '__main__': main()
