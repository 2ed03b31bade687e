"""RDED beside OGM (Figure 6): pictures for two classes, and what changed in numbers.

    python tools/gallery.py --name cifar10 --rded RUN/work/rded-.../set --ogm RUN/work/ogm-.../set
    python tools/gallery.py --name photos --data FOLDER --arch convnet6-w32 --size 224 --out RUN      # makes both sets first

The difference is drawn around grey and enlarged until its largest percent of pixels reach black or white. Writes nbs/images/gallery-NAME.png and nbs/results/gallery-NAME.json."""
import argparse
from pathlib import Path
import torch
from PIL import Image
from ogm.core import provenance, whole, write_json
from ogm.data import open_source
from ogm.distilled import DistilledSet
from ogm.models import load_teacher
from ogm.plots import grid
from ogm.rded import rded
from ogm.synthesis import distill
from ogm.training import fit_teacher

NBS = Path(__file__).resolve().parent.parent/'nbs'

def make(a): # -> (RDED set, OGM set, facts)
    "A teacher, its RDED selection and what the synthesis makes of it."
    src, out = open_source(a.data, size=a.size), Path(a.out); file = out/'teacher.safetensors'
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        fit_teacher(src, a.arch, epochs=a.epochs, batch_size=a.batch, lr=a.lr, device='cpu', verbose=True, checkpoint=out/'teacher.ckpt').save(file)
    t = load_teacher(file, src, device='cpu'); print(t, flush=True)
    start = rded(src, t, a.ipc, 2, device='cpu'); start.save(out/'rded', overwrite=True)
    ogm = distill(src, t, start, iters=a.iters, gamma=a.gamma, work=out/'work', device='cpu'); ogm.save(out/'ogm', overwrite=True)
    return start, ogm, dict(teacher=dict(arch=t.arch, accuracy=t.accuracy, sha256=t.sha256()), chance=1/t.n_classes, n_train=len(src.train), n_val=len(src.val), iters=a.iters, gamma=a.gamma)

def rings(s): # -> frequency of each coefficient of an s x s image, in whole waves a side
    f = torch.fft.fftfreq(s, 1/s, dtype=torch.float64); return (f[:, None]**2 + f**2).sqrt().round().long().flatten()

def spectrum(images): # uint8 (n, 3, s, s) -> mean power of brightness at each whole frequency 0..s/2
    "Radially averaged power spectrum; a Hann window keeps the borders out of it."
    s = images.shape[-1]; w = torch.hann_window(s, dtype=torch.float64); x = images.double().mean(1)/255
    p = torch.fft.fft2((x - x.mean((1, 2), keepdim=True))*w[:, None]*w).abs().square().mean(0)
    r = rings(s); total = torch.zeros(r.max() + 1, dtype=torch.float64).index_add_(0, r, p.flatten()); n = torch.bincount(r)
    return (total/n)[:s//2 + 1].tolist()

def fine(images): # share of the power from 1 to s/2 waves that lies in the upper half
    p = spectrum(images); p = [a*b for a, b in zip(p, torch.bincount(rings(images.shape[-1])).tolist())]; return sum(p[len(p)//2:])/sum(p[1:])

def numbers(a, b): # of two image sets, pixel by pixel
    edge = lambda x: ((x == 0) | (x == 255)).double().mean().item()
    d = b.double() - a.double()
    return dict(mean_change=d.abs().mean().item(), rms_change=d.square().mean().sqrt().item(), black_or_white=[edge(a), edge(b)], high=[fine(a), fine(b)], correlation=torch.corrcoef(torch.stack([a.double().flatten(), b.double().flatten()]))[0, 1].item(),
                spectrum=dict(rded=spectrum(a), ogm=spectrum(b)))

def picture(a, b, labels, classes, n, cell): # uint8 (3, H, W)
    "For each class RDED, OGM and their difference: three rows, or three columns for large images."
    d = b.float() - a.float(); gain = 127/d.abs().flatten()[::7].quantile(.99).clamp(min=1).item(); diff = (128 + gain*d).round().clamp(0, 255).byte()
    rows = [x[labels == c][:n] for c in classes for x in (a, b, diff)]
    if cell: # whole images halved above, one patch as it is below; RDED, OGM and difference from left to right
        whole_, part = torch.stack([torch.nn.functional.avg_pool2d(r[0].float(), 2).round().byte() for r in rows]), torch.stack([r[0, :, :r.shape[-1]//2, :r.shape[-1]//2] for r in rows])
        return grid(torch.cat([whole_[:3], whole_[3:], part[:3], part[3:]]), ncol=6, gap=2), gain
    return grid(torch.cat(rows), ncol=len(rows[0]), gap=2), gain

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter); add = p.add_argument
    add('--name', required=True); add('--rded'); add('--ogm'); add('--data'); add('--arch', default='convnet6-w32'); add('--size', type=int, default=224); add('--epochs', type=int, default=50); add('--batch', type=int, default=16)
    add('--lr', type=float, default=.02); add('--ipc', type=int, default=1); add('--iters', type=int, default=200); add('--gamma', type=float, default=.05); add('--out', default='runs/gallery'); add('--classes', default='0,1'); add('--n', type=int, default=10)
    a = p.parse_args(); torch.set_num_threads(1); old, new, facts = make(a) if a.data else (DistilledSet.load(a.rded), DistilledSet.load(a.ogm), {})
    if not torch.equal(old.labels, new.labels): raise SystemExit('the two sets have different labels: they do not begin from the same images')
    classes = [int(c) for c in a.classes.split(',')]; large = old.images.shape[-1] > 64
    g, gain = picture(old.images, new.images, old.labels, classes, a.n, large); im = Image.fromarray(g.permute(1, 2, 0).numpy())
    if not large: im = im.resize((im.width*2, im.height*2), Image.NEAREST)
    with whole(NBS/'images'/f'gallery-{a.name}.png') as tmp: im.quantize(256, dither=Image.Dither.NONE).save(tmp, format='PNG', optimize=True)
    per = {old.classes[c]: numbers(old.images[old.labels == c], new.images[new.labels == c]) for c in classes}
    write_json(NBS/'results'/f'gallery-{a.name}.json', provenance(name=a.name, classes=[old.classes[c] for c in classes], images=len(old), size=old.images.shape[-1], factor=old.factor, gain=gain, config=new.config, **facts, all=numbers(old.images, new.images), per_class=per))

if __name__ == '__main__': main()
