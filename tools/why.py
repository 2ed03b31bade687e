"""Spectra and agreements of pseudo- and true gradients, measured once for the page `26_why`.

    python tools/why.py --data data/cifar10 --teacher RUN/work/teacher.safetensors --sets 'RDED=RUN/work/rded-.../set' --out nbs/results/why.json

Two disjoint halves of the real images tell how much of the target is noise; random images, a hundred or so, how far a small set is from it."""
import argparse
from pathlib import Path
import torch
from torch.nn.functional import cosine_similarity
from ogm.core import provenance, rng, write_json
from ogm.data import open_source
from ogm.distilled import DistilledSet
from ogm.gradients import real_target
from ogm.models import load_teacher
from ogm.polar import polar, stable_rank

EPS = [0., 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.]

def agreements(A, B): # name -> matrix, twice -> layer -> {'raw': cosine, 'orthogonal': a cosine for each damping}
    cos = lambda a, b: cosine_similarity(a.flatten(), b.flatten(), 0).item()
    A, B = ({n: m.double() for n, m in x.items()} for x in (A, B))
    return {n: dict(raw=cos(A[n], B[n]), orthogonal=[cos(polar(A[n], e), polar(B[n], e)) for e in EPS]) for n in A}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', default='digits'); p.add_argument('--teacher', required=True); p.add_argument('--sets', default='', help='NAME=DIR;NAME=DIR, distilled sets')
    p.add_argument('--ipc', type=int, default=10); p.add_argument('--draws', type=int, default=5); p.add_argument('--seed', type=int, default=0); p.add_argument('--out', required=True)
    a = p.parse_args(); torch.set_num_threads(1); src = open_source(a.data); t = load_teacher(a.teacher, src, device='cpu'); n = len(src.train)
    order = torch.randperm(n, generator=rng(a.seed, 'halves')); halves = [src.train.subset(h) for h in order.split(-(-n//2))]
    few = [src.train.sample(a.ipc, a.seed + i) for i in range(a.draws)]; sets = {k: DistilledSet.load(d).split for k, _, d in (s.partition('=') for s in a.sets.split(';') if s)}
    res, full = dict(eps=EPS, kinds={}), {}
    for kind in ('pseudo', 'true'):
        G = lambda split: real_target(split, t, matcher=kind)
        A, B = map(G, halves); full[kind] = {k: (A[k]*len(halves[0]) + B[k]*len(halves[1]))/n for k in A}
        res['kinds'][kind] = dict(shape={k: list(v.shape) for k, v in A.items()}, spectrum={k: torch.linalg.svdvals(v.double()).tolist() for k, v in full[kind].items()},
            stable_rank={k: stable_rank(v).item() for k, v in full[kind].items()}, halves=agreements(A, B), random=[agreements(G(f), full[kind]) for f in few],
            sets={k: agreements(G(s), full[kind]) for k, s in sets.items()})
        print(kind, 'done', flush=True)
    res['pseudo and true'] = agreements(full['pseudo'], full['true'])
    write_json(Path(a.out), provenance(source=src.name, n_train=n, ipc=a.ipc, draws=a.draws, seed=a.seed, teacher=dict(arch=t.arch, accuracy=t.accuracy, sha256=t.sha256()), **res))

if __name__ == '__main__': main()
