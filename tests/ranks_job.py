"What `test_ranks` lets one process and two ranks compute alike: `python ranks_job.py DIR NAME`, alone or under torchrun, writes DIR/NAME.pt."
import copy, dataclasses, sys
from pathlib import Path

import torch

from ogm.core import OgmError, distributed, gather_ranks, rank, rng, world_size
from ogm.data import Source, Split, open_source
from ogm.evaluation import evaluate
from ogm.gradients import real_target
from ogm.models import Teacher, load_teacher
from ogm.rded import herding_set, make_start, missed_set, random_set, rded
from ogm.synthesis import Synthesis, Settings, distill, gather_rows
from ogm.training import Novices, build_seeded, train

class Double(Synthesis):
    "In double precision, where rounding has no time to grow."
    def load_batch(self):
        super().load_batch(); self.x = self.x.detach().double().requires_grad_()
        self.adam = torch.optim.Adam([self.x], self.s.lr, self.s.betas)

class DoubleNovices(Novices):
    "Trained in single precision, the same on every rank, and looked at in double."
    def at(self, t):
        net = copy.deepcopy(super().at(t)).double(); net.register_forward_pre_hook(lambda m, x: x[0].double()); return net

def pixels(teacher, start, target, batch, iters, kind=Synthesis, novices=None, device='cpu', **settings):
    "Pixels of all batches in units of 0..1, before they are rounded to bytes."
    run, out = kind(teacher, start, target, Settings(batch=batch//world_size(), iters=iters, **settings), device, novices), []
    while not run.done:
        run.step()
        if run.t == iters:
            x = gather_rows(run.x.detach(), run.n).cpu(); std = torch.tensor(teacher.std).view(1, 3, 1, 1)
            out.append(x*std + torch.tensor(teacher.mean).view(1, 3, 1, 1)); run.advance()
    return torch.cat(out)

def subset(ds, n): return dataclasses.replace(ds, images=ds.images[:n], labels=ds.labels[:n])

def colours(n=300, n_classes=10, size=16):
    "Coloured noise with a bright band for each class: unlike grey digits, it has all directions of the first layer."
    y = torch.arange(n) % n_classes; x = torch.randint(0, 150, (n, 3, size, size), generator=rng(0, 'colours'), dtype=torch.uint8)
    for i, c in enumerate(y): x[i, c % 3, c:c + 4] += 100
    part = Split.from_tensor(x, y, [f'band {c}' for c in range(n_classes)])
    return Source('colours', part, part)

def untrained(src, seed=0): return Teacher(build_seeded('convnet2-w16', 10, 16, seed), 'convnet2-w16', 16, (.3,)*3, (.2,)*3, src.classes)

def compute(work):
    src, r = open_source('digits'), {}
    teacher = load_teacher(work/'teacher.safetensors', src, device='cpu')
    r['target'] = {v: real_target(src.train, teacher, v) for v in ('kernel', 'channel')}
    start, r['scores'] = rded(src, teacher, 3, factor=2, device='cpu', return_scores=True)
    r['start'] = start.images
    twice = load_teacher(work/'teacher.safetensors', src, device='cpu').double()
    r['double'] = pixels(twice, start, {n: T.double() for n, T in r['target']['kernel'].items()}, 20, 20, Double) # batches of 20 and 10
    col = colours(); t = untrained(col); T, first = real_target(col.train, t), random_set(col, 3, teacher=t)
    r['single'] = pixels(t, first, T, 20, 20)
    r['colours'] = distill(col, t, first, target=T, batch=20//world_size(), iters=20, device='cpu').images
    half = Synthesis(t.aligned(col), first, T, Settings(batch=20//world_size(), iters=20), 'cpu'); half.resume(work/f'half{world_size()}')
    for _ in range(7): half.step()
    half.save(work/f'half{world_size()}'); r['real target'], r['first'] = T, first.images                    # to be continued on another number of ranks
    r['odd'] = pixels(t.double(), subset(first, 5), {n: G.double() for n, G in T.items()}, 4, 20, Double) # of 4 and 1: the second rank has no image of its own
    young = lambda **kw: pixels(t.double(), first, {n: G.double() for n, G in T.items()}, 20, 10, Double, DoubleNovices(col, 'convnet2-w16', 2, 8, device='cpu'), eta=1., **kw) # batches of 20 and 10
    r['novices'], r['changed alike'], r['few classes'] = young(), young(eta_augment=True, eta_layers=1, pupils=5), young(eta_layers=1, eta_share=.2) # of two classes a rank often has no image
    r['few levels'] = young(levels=15, eta_layers=1)
    both = make_start(col, t, 'random', 3, 2, chroma=2)                                                                 # two mosaics in one image
    r['packed'], r['packed odd'] = (pixels(t.double(), d, {n: G.double() for n, G in T.items()}, b, 10, Double, DoubleNovices(col, 'convnet2-w16', 2, 8, device='cpu'), eta=1., eta_share=.2) for d, b in ((both, 20), (subset(both, 5), 4)))
    r['herding'] = herding_set(src, teacher, 3, factor=2, device='cpu').images
    r['missed'] = missed_set(src, teacher, start, 2, students=2, recipe='ogm-muon:steps=30,scale=0.5', device='cpu').images
    r['set'], log = distill(src, teacher, start, target=r['target']['kernel'], batch=20//world_size(), iters=20, device='cpu', log=(log := [])).images, log; r['log'] = torch.tensor(log)
    kw = dict(mean=teacher.mean, std=teacher.std, size=8, device='cpu', seed=1)
    for name, labels in (('ogm-basic', 'hard'), ('rded', 'soft')):                 # the second mixes images across ranks
        net = build_seeded('convnet2-w16-in', 10, 8)
        h = train(net, src.train.subset(range(333)), name, labels=labels, teacher=teacher, val=src.val, epochs=3, batch_size=32, **kw)
        r[f'{name}, {labels}'] = h.loss, h.acc
        state = torch.cat([v.float().flatten() for v in net.state_dict().values()])
        assert all(torch.equal(state, s) for s in gather_ranks(state[None])), 'the ranks ended with different nets'
    score = evaluate(start, src.val, 'ogm-basic', seeds=2, arch='convnet2-w16-in', epochs=20, device='cpu', out=work/f'score{world_size()}.json', work=work)
    r['score'] = score.last
    r['known'] = evaluate(start, src.val, 'ogm-basic', seeds=2, arch='convnet2-w16-in', epochs=20, device='cpu', out=work/(f'score{world_size()}.json' if rank() == 0 else 'unseen.json')).last # a file that one machine has and another has not
    try: train(build_seeded('convnet2-w16-in', 10, 8), src.train.subset([0]), 'sgd', epochs=1, **kw)
    except OgmError as e: r['too few'] = str(e)
    return r

if __name__ == '__main__':
    torch.set_num_threads(1); work, name = Path(sys.argv[1]), sys.argv[2]
    with distributed('cpu'):
        r = compute(work)
        if rank() == 0: torch.save(r, work/f'{name}.pt')
