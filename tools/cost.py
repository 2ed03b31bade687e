"""What one crop, one image and one step cost with a ResNet-18 at 224 px: `python tools/cost.py --photos DIR --out nbs/results/cost.json`.

Floating-point operations are counted by torch as they happen, seconds are those of the processor. From them the page on large sets computes hours; it says so."""
import argparse, time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ogm.core import provenance, write_json
from ogm.data import open_source
from ogm.distilled import DistilledSet
from ogm.gradients import real_target
from ogm.models import Teacher
from ogm.rded import crop_batches, realism
from ogm.synthesis import Settings, Synthesis
from ogm.training import build_seeded

def cost(f, n): # operations and seconds of one of `n` things
    with FlopCounterMode(display=False) as count: f()
    t = time.process_time(); f()
    return dict(flops=count.get_total_flops()/n, seconds=(time.process_time() - t)/n)

def repeated(start, k): # the same images `k` times
    return DistilledSet(start.images.repeat(k, 1, 1, 1), start.labels.repeat(k), start.classes, None, start.mean, start.std, start.factor)

def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0]); a.add_argument('--photos', required=True, help='folder of class folders with photographs'); a.add_argument('--n', type=int, default=8)
    a.add_argument('--out'); a = a.parse_args(); n, side, C = a.n, 224, 1000; torch.set_num_threads(1)
    t = Teacher(build_seeded('resnet18', C, side), 'resnet18', side, (.485, .456, .406), (.229, .224, .225), [str(i) for i in range(C)])
    src = open_source(a.photos, size=side); few = src.train.subset(range(n)); few._cache = {side: few.tensor(side)}
    rows = torch.arange(n); crops = next(crop_batches(src.train, rows, side//2, n, 5, 0, 'cpu', 0))
    res = dict(crop=cost(lambda: realism(t, crops.flatten(0, 1), torch.zeros(5*n, dtype=torch.long)), 5*n), image=cost(lambda: real_target(few, t), n))
    target = real_target(few, t); start = DistilledSet(few._cache[side], torch.arange(n), t.classes, None, t.mean, t.std, 2)
    one, two = (cost(Synthesis(t, repeated(start, k), target, Settings(batch=k*n), 'cpu').step, 1) for k in (1, 2))
    res |= dict(step={k: (two[k] - one[k])/n for k in one}, once={k: max(0, 2*one[k] - two[k]) for k in one}) # of each image in a step, and of the step
    began = time.process_time(); [src.train.read(i) for i in range(64)]; res['decode_seconds'] = (time.process_time() - began)/64
    began = time.process_time(); list(crop_batches(src.train, torch.arange(64), side//2, 32, 5, 0, 'cpu', 0)); res['crops_seconds'] = (time.process_time() - began)/64 # decode and cut five crops
    from ogm.distilled import _encode
    res |= dict(png_bytes=sum(len(_encode(x)) for x in start.images)/n, history_bytes=4*sum(G.numel() for G in target.values()), weight_bytes=sum(v.numel()*v.element_size() for v in t.net.state_dict().values()), side=side, arch='resnet18', batch=n)
    print(res)
    if a.out: write_json(Path(a.out), provenance(**res))

if __name__ == '__main__': main()
